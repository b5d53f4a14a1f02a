//! Drops the watch events of the grants and stores that other shards serve. The apiserver cannot drop these events,
//! because a field selector cannot contain a hash.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
};

use kube::{
    Resource, ResourceExt,
    runtime::{
        reflector::{self, ObjectRef},
        watcher::Event,
    },
};

use super::{
    cached_grant::{CachedGrant, WatchedGrant},
    slot::lock,
};
use crate::{
    api::{Grant, Store},
    core::Shard,
};

/// Drops the watch events of grants that other shards serve. With one shard, no event is dropped, and no grant is
/// parsed twice.
pub struct ShardFilter<G: Grant> {
    pub shard: Shard,
    /// The watch cache. It does not contain the change yet when [`Self::pass`] receives the event.
    pub cache: reflector::Store<CachedGrant<G>>,
    pub foreign: Arc<ForeignGrants>,
}

impl<G: Grant> ShardFilter<G> {
    /// Returns the event for the watch cache of this shard. Returns `None` if the event is about a grant of another
    /// shard.
    pub fn pass(&self, event: Event<WatchedGrant<G>>) -> Option<Event<CachedGrant<G>>> {
        if self.shard.is_only() {
            return Some(match event {
                Event::Apply(grant) => Event::Apply(grant.into_cached()),
                Event::InitApply(grant) => Event::InitApply(grant.into_cached()),
                Event::Delete(grant) => Event::Delete(grant.into_cached()),
                Event::Init => Event::Init,
                Event::InitDone => Event::InitDone,
            });
        }
        match event {
            Event::Apply(grant) if self.serves(&grant) => {
                self.foreign.forget(&grant);
                Some(Event::Apply(grant.into_cached()))
            }
            Event::Apply(grant) => {
                self.foreign.note(&grant);
                self.known(&grant).map(Event::Delete)
            }
            Event::InitApply(grant) if self.serves(&grant) => Some(Event::InitApply(grant.into_cached())),
            // A list replaces the whole watch cache, so a dropped grant is no longer in the cache at its end.
            Event::InitApply(grant) => {
                self.foreign.list(&grant);
                None
            }
            Event::Delete(grant) => {
                self.foreign.forget(&grant);
                self.known(&grant).map(Event::Delete)
            }
            Event::Init => {
                self.foreign.list_begins();
                Some(Event::Init)
            }
            Event::InitDone => {
                self.foreign.list_ends();
                Some(Event::InitDone)
            }
        }
    }

    fn serves(&self, grant: &WatchedGrant<G>) -> bool {
        match grant.store() {
            Some(store) => self.shard.serves(&store),
            None => self.shard.serves_rest(),
        }
    }

    /// Returns the version of a grant in the watch cache. The watch cache contains a grant of another shard only if the
    /// grant has moved. The store of a grant is immutable, but a grant can move if an earlier version had a store that
    /// could not be parsed.
    fn known(&self, grant: &WatchedGrant<G>) -> Option<CachedGrant<G>> {
        let reference = ObjectRef::new(&grant.name_any()).within(&grant.namespace().unwrap_or_default());
        Some(self.cache.get(&reference)?.as_ref().clone())
    }
}

/// What a shard knows about the grants of other shards. It does not keep the grants themselves.
///
/// - The shard needs their versions to find out whether the watch has missed an event (`silent.rs`).
/// - The shard needs the object keys of their multipart uploads, because stores of several shards can have the same
///   bucket. Valet must not abort a multipart upload that may belong to another grant.
///
/// The UIDs, versions and object keys are stored as hash values of 8 bytes.
#[derive(Debug, Default)]
pub struct ForeignGrants {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    now: Known,
    /// The grants in a list that is not complete yet.
    listed: Known,
}

#[derive(Debug, Default)]
struct Known {
    /// The version of each grant, by UID.
    versions: HashMap<u64, u64>,
    /// The object key of each unfinished grant for a multipart upload, by UID.
    multipart_keys: HashMap<u64, u64>,
}

impl ForeignGrants {
    /// Returns true if another shard serves the grant, and if the watch has delivered this version of the grant.
    pub fn has(&self, uid: &str, version: &str) -> bool {
        let (uid, version) = (self.hasher.hash_one(uid), self.hasher.hash_one(version));
        lock(&self.state).now.versions.get(&uid) == Some(&version)
    }

    /// Returns true if another shard serves an unfinished grant for a multipart upload to this object key.
    pub fn has_multipart_upload(&self, key: &str) -> bool {
        let key = self.hasher.hash_one(key);
        let state = lock(&self.state);
        // While a list is not complete, some grants are only in the list.
        let known = [&state.now, &state.listed];
        known
            .iter()
            .any(|known| known.multipart_keys.values().any(|other| *other == key))
    }

    fn note<G: Grant>(&self, grant: &WatchedGrant<G>) {
        self.note_in(grant, |state| &mut state.now);
    }

    fn forget(&self, grant: &impl Resource) {
        if let Some(uid) = &grant.meta().uid {
            let uid = self.hasher.hash_one(uid.as_str());
            let mut state = lock(&self.state);
            state.now.versions.remove(&uid);
            state.now.multipart_keys.remove(&uid);
        }
    }

    fn list_begins(&self) {
        lock(&self.state).listed = Known::default();
    }

    fn list<G: Grant>(&self, grant: &WatchedGrant<G>) {
        self.note_in(grant, |state| &mut state.listed);
    }

    fn list_ends(&self) {
        let mut state = lock(&self.state);
        state.now = std::mem::take(&mut state.listed);
        state.now.versions.shrink_to_fit();
    }

    fn note_in<G: Grant>(&self, grant: &WatchedGrant<G>, list: impl Fn(&mut State) -> &mut Known) {
        let (Some(uid), Some(version)) = (&grant.meta().uid, &grant.meta().resource_version) else {
            return;
        };
        let hash = |text: &str| self.hasher.hash_one(text);
        let (uid, version) = (hash(uid), hash(version));
        let key = grant.multipart_key().map(|key| hash(&key));
        let mut state = lock(&self.state);
        let known = list(&mut state);
        known.versions.insert(uid, version);
        match key {
            Some(key) => known.multipart_keys.insert(uid, key),
            None => known.multipart_keys.remove(&uid),
        };
    }
}

/// Returns false for a watch event about a store that another shard serves.
pub fn is_own_store<S: Store, K: Resource>(shard: Shard, event: &Event<K>) -> bool {
    match event {
        Event::Apply(store) | Event::InitApply(store) | Event::Delete(store) => {
            shard.is_only() || shard.serves(&(S::KIND, store.namespace().unwrap_or_default(), store.name_any()))
        }
        Event::Init | Event::InitDone => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::UploadGrant;

    /// Shard 0 of two shards serves the store `zero`, and shard 1 serves the store `one`.
    fn stores() -> (String, String) {
        let shard = Shard::new(0, 2).unwrap();
        let is_own = |name: &String| shard.serves(&(crate::api::StoreKind::ObjectStore, "web".into(), name.clone()));
        let names = || (0..).map(|n| format!("store-{n}"));
        (
            names().find(is_own).unwrap(),
            names().find(|name| !is_own(name)).unwrap(),
        )
    }

    fn grant(name: &str, store: &Value, version: u32) -> WatchedGrant<UploadGrant> {
        let grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant",
            "metadata": {
                "name": name, "namespace": "web", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            },
            "spec": {"storeRef": {"name": store}, "key": "a/b"},
        });
        serde_json::from_value(grant).unwrap()
    }

    /// A shard with its watch cache.
    struct Watch {
        filter: ShardFilter<UploadGrant>,
        writer: reflector::store::Writer<CachedGrant<UploadGrant>>,
    }

    impl Watch {
        fn new(index: u16, count: u16) -> Self {
            let (cache, writer) = reflector::store();
            let shard = Shard::new(index, count).unwrap();
            let foreign = Arc::default();
            let filter = ShardFilter { shard, cache, foreign };
            Self { filter, writer }
        }

        /// Passes an event to the watch cache, and returns the kind of the event that reached the cache.
        fn see(&mut self, event: Event<WatchedGrant<UploadGrant>>) -> Option<&'static str> {
            let passed = self.filter.pass(event)?;
            self.writer.apply_watcher_event(&passed);
            Some(match passed {
                Event::Apply(_) => "Apply",
                Event::InitApply(_) => "InitApply",
                Event::Delete(_) => "Delete",
                Event::Init => "Init",
                Event::InitDone => "InitDone",
            })
        }

        fn cached(&self) -> Vec<String> {
            let mut names: Vec<_> = self.filter.cache.state().iter().map(|grant| grant.name_any()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn events_of_other_shards_do_not_reach_the_watch_cache() {
        let (zero, one) = stores();
        let (zero, one) = (json!(zero), json!(one));
        let mut watch = Watch::new(0, 2);
        let seen: Vec<_> = [
            Event::Init,
            Event::InitApply(grant("a", &zero, 1)),
            Event::InitApply(grant("b", &one, 2)),
            Event::InitDone,
            Event::Apply(grant("c", &one, 3)),
            Event::Apply(grant("d", &zero, 4)),
            Event::Delete(grant("b", &one, 5)),
            Event::Delete(grant("a", &zero, 6)),
        ]
        .into_iter()
        .map(|event| watch.see(event))
        .collect();
        let passed = ["Init", "InitApply", "-", "InitDone", "-", "Apply", "-", "Delete"];
        assert_eq!(seen, passed.map(|name| Some(name).filter(|name| *name != "-")));
        assert_eq!(watch.cached(), ["d"]);
        let foreign = &watch.filter.foreign;
        assert!(foreign.has("uid-c", "3") && !foreign.has("uid-c", "4"));
        assert!(!foreign.has("uid-b", "2"), "the grant was deleted");
        assert!(!foreign.has("uid-d", "4"), "this shard serves the grant");
    }

    #[test]
    fn grant_that_moves_to_another_shard_is_deleted_from_the_watch_cache() {
        let (_, one) = stores();
        let (mut zero, mut other) = (Watch::new(0, 2), Watch::new(1, 2));
        // Nobody can parse the store, so shard 0 serves the grant.
        let broken = Event::Apply(grant("a", &json!(7), 1));
        assert_eq!((zero.see(broken.clone()), other.see(broken)), (Some("Apply"), None));
        let repaired = Event::Apply(grant("a", &json!(one), 2));
        assert_eq!(
            (zero.see(repaired.clone()), other.see(repaired)),
            (Some("Delete"), Some("Apply"))
        );
        assert_eq!((zero.cached(), other.cached()), (vec![], vec!["a".to_owned()]));
        assert!(zero.filter.foreign.has("uid-a", "2") && !other.filter.foreign.has("uid-a", "1"));
    }

    #[test]
    fn new_list_replaces_the_versions_of_other_grants() {
        let (_, one) = stores();
        let one = json!(one);
        let mut watch = Watch::new(0, 2);
        watch.see(Event::Apply(grant("a", &one, 1)));
        watch.see(Event::Init);
        watch.see(Event::InitApply(grant("b", &one, 2)));
        assert!(watch.filter.foreign.has("uid-a", "1"), "the list is not complete");
        watch.see(Event::InitDone);
        assert!(!watch.filter.foreign.has("uid-a", "1") && watch.filter.foreign.has("uid-b", "2"));
    }

    #[test]
    fn only_shard_serves_all_grants() {
        let mut watch = Watch::new(0, 1);
        let (zero, one) = stores();
        for store in [json!(zero), json!(one), json!(7)] {
            assert_eq!(watch.see(Event::Apply(grant("a", &store, 1))), Some("Apply"));
        }
        assert_eq!(watch.see(Event::Delete(grant("a", &json!(one), 1))), Some("Delete"));
        assert!(watch.cached().is_empty());
        assert_eq!(lock(&watch.filter.foreign.state).now.versions.len(), 0);
    }

    /// Two stores of different shards can have the same bucket.
    #[test]
    fn multipart_uploads_of_other_shards_are_known_until_they_finish() {
        let (_, one) = stores();
        let upload = |version: u32, status: Value| {
            let grant = json!({
                "metadata": {"name": "a", "namespace": "web", "uid": "a", "resourceVersion": version.to_string()},
                "spec": {"storeRef": {"name": one}, "key": "a/b", "mode": "Multipart"}, "status": status,
            });
            serde_json::from_value::<WatchedGrant<UploadGrant>>(grant).unwrap()
        };
        let mut watch = Watch::new(0, 2);
        let foreign = watch.filter.foreign.clone();
        watch.see(Event::Init);
        watch.see(Event::InitApply(upload(1, json!({}))));
        assert!(
            foreign.has_multipart_upload("a/b"),
            "also while the list is not complete"
        );
        watch.see(Event::InitDone);
        assert!(foreign.has_multipart_upload("a/b") && !foreign.has_multipart_upload("a/c"));
        watch.see(Event::Apply(upload(2, json!({"finishedTime": "2026-01-01T00:00:00Z"}))));
        assert!(!foreign.has_multipart_upload("a/b"));
        watch.see(Event::Apply(upload(3, json!({}))));
        assert!(foreign.has_multipart_upload("a/b"));
        watch.see(Event::Delete(upload(4, json!({}))));
        assert!(!foreign.has_multipart_upload("a/b"));
    }
}
