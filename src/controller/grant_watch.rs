//! Passes the events of the watch on grants to the parts of the operator that keep data about grants. The watch cache
//! is the only list of all grants. Each of these parts keeps its own data under the UID of the grant.

use std::{collections::HashSet, sync::Arc};

use kube::{
    Resource, ResourceExt,
    runtime::{reflector, watcher},
};

use super::{
    cached_grant::CachedGrant,
    list_gate::ListGate,
    local_state::LocalState,
    quota::Quotas,
    watch::{Requeuer, watch_failed},
};
use crate::{api::Grant, notifications::UploadIndex, telemetry::Health};

/// The parts of the operator that keep data about one kind of grant.
pub struct GrantWatch<G: Grant> {
    /// The watch cache. It must already contain the change when [`Self::seen`] receives the event. Otherwise a grant
    /// that is deleted during its reconcile could keep its reserved quota.
    pub cache: reflector::Store<CachedGrant<G>>,
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
    pub fn seen(&mut self, event: &Result<watcher::Event<CachedGrant<G>>, watcher::Error>) {
        let missed = event.as_ref().map(|event| self.missed.seen(event)).unwrap_or_default();
        match event {
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitApply(grant)) => {
                let is_new = self.applied(grant);
                let is_first_list = self.health.is_some();
                if !is_first_list {
                    self.hold_back_if_changed(grant);
                } else if is_new {
                    // The controller itself waits for the end of the first list before it starts a reconcile.
                    self.enqueue(grant);
                }
            }
            Ok(watcher::Event::Apply(grant)) => {
                if self.applied(grant) {
                    self.enqueue(grant);
                }
                self.local_state.delivered(grant);
            }
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

    fn enqueue(&self, grant: &CachedGrant<G>) {
        self.requeuer
            .enqueue(&grant.name_any(), &grant.namespace().unwrap_or_default());
    }

    /// Passes a version of a grant to the parts of the operator. Returns true if Valet must reconcile the grant.
    fn applied(&self, cached: &CachedGrant<G>) -> bool {
        // If Valet cannot parse a grant, the parts of the operator keep the data of the last version that Valet could
        // parse.
        if let Ok(grant) = cached.grant() {
            if let Some(upload_index) = &self.upload_index {
                upload_index.applied(&grant);
            }
            self.quotas.applied(&grant, &self.local_state);
            self.requeuer.status_seen(&grant);
        }
        self.local_state.applied(cached.meta())
    }

    /// Holds back a listed grant if the watch cache does not contain this version of the grant.
    fn hold_back_if_changed(&mut self, grant: &CachedGrant<G>) {
        let known = self.requeuer.watched(grant);
        if known.is_some_and(|known| known.resource_version() == grant.resource_version()) {
            return;
        }
        let _ = self
            .missed
            .pass((grant.namespace().unwrap_or_default(), grant.name_any()));
    }

    /// Removes the data about all grants that were deleted while the watch was interrupted.
    fn listed(&mut self) {
        let grants = self.cache.state();
        grants
            .iter()
            .for_each(|grant| self.local_state.delivered(grant.as_ref()));
        let uids: HashSet<String> = grants.iter().filter_map(|grant| grant.uid()).collect();
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

    fn grant(name: &str, version: u32) -> CachedGrant<UploadGrant> {
        let grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1",
            "kind": "UploadGrant",
            "metadata": {
                "name": name, "namespace": "web", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            },
            "spec": {"storeRef": {"name": "media"}, "key": "a/b"},
        });
        serde_json::from_value(grant).unwrap()
    }

    /// Returns a function that passes an event to the watch cache and to a `GrantWatch`. The function returns the names of
    /// the grants that are then enqueued.
    fn watch() -> impl FnMut(Event<CachedGrant<UploadGrant>>) -> Vec<String> {
        let (cache, mut writer) = reflector::store();
        let local_state = Arc::new(LocalState::new(RecordKey::new([0; 32])));
        let (requeuer, requeues) = Requeuer::new(cache.clone(), local_state.clone(), Arc::new(Progress::default()));
        let mut requeues = requeues.boxed();
        let mut watch = GrantWatch {
            cache,
            local_state,
            quotas: Arc::new(Quotas::new(|_, _, _| true)),
            upload_index: None,
            requeuer,
            missed: ListGate::default(),
            health: None,
        };
        move |event| {
            writer.apply_watcher_event(&event);
            watch.seen(&Ok(event));
            let called = std::iter::from_fn(|| requeues.next().now_or_never().flatten());
            called.map(|reference| reference.name).collect()
        }
    }

    #[test]
    fn new_and_changed_grants_are_enqueued_once() {
        let changed = |version: u32, meta: serde_json::Value| {
            let mut grant = grant("a", version);
            let mut all = json!(grant.meta());
            all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
            *grant.meta_mut() = serde_json::from_value(all).unwrap();
            grant
        };
        let mut see = watch();
        assert_eq!(see(Event::Apply(grant("a", 1))), ["a"]);
        assert_eq!(
            see(Event::Apply(grant("a", 2))),
            [""; 0],
            "only the resource version has changed"
        );
        let changes = [
            json!({"generation": 2}),
            json!({"labels": {"a": "b"}}),
            json!({"annotations": {"a": "b"}}),
            json!({"finalizers": ["a/b"]}),
        ];
        for (n, change) in (3..).zip(changes) {
            assert_eq!(see(Event::Apply(changed(n, change.clone()))), ["a"], "{change}");
            assert_eq!(see(Event::Apply(changed(n, change.clone()))), [""; 0], "{change}");
        }
        assert_eq!(see(Event::Delete(grant("a", 9))), [""; 0]);
        assert_eq!(see(Event::Apply(grant("a", 10))), ["a"], "the grant was created again");
    }

    /// If a watch is interrupted, the next list can contain new and changed grants. The watch cache contains them only
    /// at the end of the list, so a reconcile before this end does not find them.
    #[test]
    fn grants_that_changed_during_an_interruption_are_enqueued_when_the_list_is_complete() {
        let mut see = watch();
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
