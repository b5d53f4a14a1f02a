//! Passes the events of the watch on grants to the parts of the operator that keep data about grants. The watch cache
//! is the only list of all grants. Each of these parts keeps its own data under the UID of the grant.

use std::{collections::HashSet, sync::Arc};

use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::{reflector, watcher},
};

use super::{
    list_gate::ListGate,
    local_state::LocalState,
    quota::Quotas,
    watch::{Requeuer, Watched, watch_failed},
};
use crate::{api::Grant, notifications::UploadIndex, telemetry::Health};

/// The parts of the operator that keep data about one kind of grant.
pub struct GrantWatch<G: Grant> {
    /// The watch cache. It must already contain the change when [`Self::seen`] receives the event. Otherwise a grant
    /// that is deleted during its reconcile could keep its reserved quota.
    pub cache: reflector::Store<Watched<G>>,
    pub local_state: Arc<LocalState<G>>,
    pub quotas: Arc<Quotas>,
    /// The index of expected uploads. It is `None` if Valet receives no notifications, or if the grants are not
    /// UploadGrants.
    pub upload_index: Option<Arc<UploadIndex>>,
    pub requeuer: Requeuer<G>,
    /// Holds back the namespaces and names of grants that changed while the watch was interrupted. When the new list
    /// is complete, Valet reconciles these grants.
    pub missed: ListGate<(String, String)>,
    /// Receives the end of the first list.
    pub health: Option<Health>,
}

impl<G: Grant> GrantWatch<G> {
    /// Processes an event of the watch.
    pub fn seen(&mut self, event: &Result<watcher::Event<Watched<G>>, watcher::Error>) {
        let missed = event.as_ref().map(|event| self.missed.seen(event)).unwrap_or_default();
        match event {
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitApply(grant)) => {
                self.applied(grant);
                self.hold_back_if_changed(grant);
            }
            Ok(watcher::Event::Apply(grant)) => self.applied(grant),
            Ok(watcher::Event::InitDone) => {
                self.listed();
                for (namespace, name) in missed {
                    self.requeuer.enqueue(&name, &namespace);
                }
            }
            Ok(watcher::Event::Delete(grant)) => self.deleted(&grant.uid().unwrap_or_default()),
            Err(error) => watch_failed(G::OPERATION.kind(), error),
        }
    }

    fn applied(&self, grant: &Watched<G>) {
        // If Valet cannot parse a grant, the parts of the operator keep the data of the last version that Valet could
        // parse.
        let DeserializeGuard(Ok(grant)) = grant else { return };
        if let Some(upload_index) = &self.upload_index {
            upload_index.applied(grant);
        }
        self.quotas.applied(grant, &self.local_state);
        self.local_state.applied(grant);
        self.requeuer.status_seen(grant);
    }

    /// Holds back a listed grant if the watch cache does not contain this version of the grant. During the first
    /// list, this is not necessary, because the controller waits for the end of this list.
    fn hold_back_if_changed(&mut self, grant: &Watched<G>) {
        let is_first_list = self.health.is_some();
        let is_known = || {
            let known = self.requeuer.watched(grant);
            known.is_some_and(|known| known.resource_version() == grant.resource_version())
        };
        if is_first_list || is_known() {
            return;
        }
        let _ = self
            .missed
            .pass((grant.namespace().unwrap_or_default(), grant.name_any()));
    }

    /// Removes the data about all grants that were deleted while the watch was interrupted.
    fn listed(&mut self) {
        let uids: HashSet<String> = self.cache.state().iter().filter_map(|grant| grant.uid()).collect();
        if let Some(upload_index) = &self.upload_index {
            upload_index.retain(&uids);
        }
        self.quotas.retain(G::OPERATION, &uids);
        self.local_state.retain(&uids);
        if let Some(health) = self.health.take() {
            health.done();
        }
    }

    fn deleted(&self, uid: &str) {
        if let Some(upload_index) = &self.upload_index {
            upload_index.deleted(uid);
        }
        self.quotas.gone(uid);
        self.local_state.forget(uid);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use serde_json::json;
    use watcher::Event;

    use super::*;
    use crate::{api::UploadGrant, core::record::RecordKey, telemetry::Progress};

    fn grant(name: &str, version: u32) -> Watched<UploadGrant> {
        let grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1",
            "kind": "UploadGrant",
            "metadata": {
                "name": name, "namespace": "web", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            },
            "spec": {"storeRef": {"name": "media"}, "key": "a/b"},
        });
        DeserializeGuard(Ok(serde_json::from_value(grant).unwrap()))
    }

    /// If a watch is interrupted, the next list can contain new and changed grants. The watch cache contains them only
    /// at the end of the list, so a reconcile before this end does not find them.
    #[test]
    fn grants_that_changed_during_an_interruption_are_enqueued_when_the_list_is_complete() {
        let (cache, mut writer) = reflector::store();
        let local_state = Arc::new(LocalState::new(RecordKey::new([0; 32])));
        let (requeuer, mut requeues) =
            Requeuer::new(cache.clone(), local_state.clone(), Arc::new(Progress::default()));
        let mut watch = GrantWatch {
            cache,
            local_state,
            quotas: Arc::new(Quotas::new(|_, _, _| true)),
            upload_index: None,
            requeuer,
            missed: ListGate::default(),
            health: None,
        };
        let mut see = |event: Event<Watched<UploadGrant>>| {
            writer.apply_watcher_event(&event);
            watch.seen(&Ok(event));
            let called = std::iter::from_fn(|| requeues.next().now_or_never().flatten());
            called.map(|reference| reference.name).collect::<Vec<_>>()
        };
        see(Event::Apply(grant("same", 1)));
        see(Event::Apply(grant("changed", 2)));
        for event in [
            Event::Init,
            Event::InitApply(grant("changed", 5)),
            Event::InitApply(grant("new", 4)),
            Event::InitApply(grant("same", 1)),
        ] {
            assert_eq!(see(event), Vec::<String>::new(), "the list is not complete");
        }
        assert_eq!(see(Event::InitDone), ["changed", "new"]);
        assert_eq!(see(Event::Apply(grant("same", 6))), Vec::<String>::new());
    }
}
