//! Passes the events of the watch on grants to the parts of the operator that keep data about grants. The watch cache
//! is the only list of all grants. Each part keeps only its own data, by the UID of the grant.

use std::{collections::HashSet, sync::Arc};

use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::{reflector, watcher},
};

use super::{
    local_state::LocalState,
    quota::Quotas,
    watch::{Requeuer, Watched, watch_failed},
};
use crate::{api::Grant, notifications::UploadIndex, telemetry::Health};

/// The parts of the operator that keep data about one kind of grant.
pub struct GrantWatch<G: Grant> {
    /// The watch cache. It must already contain the change when [`Self::seen`] receives the event. Otherwise a grant
    /// that is deleted during its reconcile could keep its quota.
    pub cache: reflector::Store<Watched<G>>,
    pub memory: Arc<LocalState<G>>,
    pub places: Arc<Quotas>,
    /// The index of expected uploads. It is `None` if Valet receives no notifications, or if the grants are not
    /// UploadGrants.
    pub awaited: Option<Arc<UploadIndex>>,
    pub caller: Requeuer<G>,
    /// Receives the end of the first list.
    pub health: Option<Health>,
}

impl<G: Grant> GrantWatch<G> {
    /// Processes an event of the watch.
    pub fn seen(&mut self, event: &Result<watcher::Event<Watched<G>>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitApply(grant) | watcher::Event::Apply(grant)) => self.applied(grant),
            Ok(watcher::Event::InitDone) => self.listed(),
            Ok(watcher::Event::Delete(grant)) => self.deleted(&grant.uid().unwrap_or_default()),
            Err(error) => watch_failed(G::OPERATION.kind(), error),
        }
    }

    fn applied(&self, grant: &Watched<G>) {
        // If Valet cannot parse a grant, the parts keep the data of the last version that Valet could parse.
        let DeserializeGuard(Ok(grant)) = grant else { return };
        if let Some(awaited) = &self.awaited {
            awaited.applied(grant);
        }
        self.places.applied(grant, &self.memory);
        self.caller.status_seen(grant);
    }

    /// Removes the data about all grants that were deleted while the watch was interrupted.
    fn listed(&mut self) {
        let uids: HashSet<String> = self.cache.state().iter().filter_map(|grant| grant.uid()).collect();
        if let Some(awaited) = &self.awaited {
            awaited.keep_only(&uids);
        }
        self.places.keep_only(G::OPERATION, &uids);
        self.memory.keep_only(&uids);
        if let Some(health) = self.health.take() {
            health.done();
        }
    }

    fn deleted(&self, uid: &str) {
        if let Some(awaited) = &self.awaited {
            awaited.deleted(uid);
        }
        self.places.gone(uid);
        self.memory.forget(uid);
    }
}
