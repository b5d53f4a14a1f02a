mod secret;
mod status;
mod upload;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{ResourceExt, core::ObjectMeta};

use self::{secret::SecretMemory, status::StatusMemory, upload::UploadMemory};
use crate::{
    api::Grant,
    core::record::RecordKey,
    core::{GrantFacts, SecretState},
};

/// Facts about the grants of one kind that this process keeps only in its memory. A restart of the process loses these
/// facts.
///
/// With these facts, Valet needs fewer reads and writes. They also help if a client destroys the records that Valet
/// keeps in the cluster. Valet never signs a credential because of these facts alone.
pub struct LocalState<G> {
    /// The facts, by the UID of the grant. Each entry has an allocation of its own, because up to half of the places in
    /// the map are empty.
    grants: Mutex<HashMap<String, Box<GrantState<G>>>>,
    /// The record key, with which Valet checks whether it wrote a record itself.
    records: RecordKey,
}

struct GrantState<G> {
    /// The version of the grant that this process wrote last. Valet keeps this version until the watch delivers it. The
    /// watch event of the grant Secret can arrive earlier and start a reconcile. Without this version, that reconcile
    /// would use a grant with an old status.
    written: Option<Arc<G>>,
    status: StatusMemory,
    secret: SecretMemory,
    /// What this process knows about the object in the store. `None` for grants whose object Valet does not look for.
    upload: Option<Box<UploadMemory>>,
    /// The generation of the grant for which Valet has evaluated the schema rules, and the violated rules. Each
    /// evaluation takes more CPU time than the rest of a reconcile without requests.
    checked: Option<(i64, Box<[String]>)>,
    /// A hash of the parts of the grant that only users change.
    changed_by_users: Option<u64>,
    /// A hash of the parts of the grant whose changes cause a reconcile.
    triggers: Option<u64>,
    /// The number of consecutive failures of the grant's reconcile.
    failures: u32,
}

impl<G> Default for GrantState<G> {
    fn default() -> Self {
        Self {
            written: None,
            status: StatusMemory::default(),
            secret: SecretMemory::default(),
            upload: None,
            checked: None,
            changed_by_users: None,
            triggers: None,
            failures: 0,
        }
    }
}

impl<G: Grant> LocalState<G> {
    /// Creates a state without any grants.
    pub fn new(records: RecordKey) -> Self {
        Self {
            grants: Mutex::default(),
            records,
        }
    }

    /// Returns the HMAC key with which Valet signs its own records.
    pub fn records(&self) -> &RecordKey {
        &self.records
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Box<GrantState<G>>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, uid: &str, change: impl FnOnce(&mut GrantState<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// Returns the newer of two versions of a grant: the version from the watch, or the version that this process
    /// wrote last.
    ///
    /// Returns the version of the grant that this process wrote last. Returns `None` if `watched` is at least as new.
    pub fn written(&self, watched: &impl ResourceExt) -> Option<Arc<G>> {
        let lock = self.lock();
        let written = lock.get(&watched.uid().unwrap_or_default())?.written.as_ref()?;
        (version(written.as_ref()) > version(watched)).then(|| written.clone())
    }

    /// Removes the written version of a grant from memory after the watch has delivered it. The watch cache must
    /// already contain `watched`.
    pub fn delivered(&self, watched: &impl ResourceExt) {
        if let Some(r) = self.lock().get_mut(&watched.uid().unwrap_or_default()) {
            r.written
                .take_if(|written| version(written.as_ref()) <= version(watched));
        }
    }

    /// Records the version of a grant that the apiserver returned after a write of this process.
    pub fn wrote(&self, grant: &Arc<G>) {
        self.of(&grant.uid().unwrap_or_default(), |r| r.written = Some(grant.clone()));
    }

    /// Returns the facts about a grant, with the part of its status that Valet can trust. The method remembers this
    /// part for later reconciles.
    pub fn facts(&self, grant: &G) -> GrantFacts {
        let known = self.known_status(grant);
        if known.is_own {
            let generation = grant.meta().generation.unwrap_or_default();
            self.remember(&grant.uid().unwrap_or_default(), &known.status, generation);
        }
        GrantFacts::with_broken_rules(grant, self.broken_rules(grant)).with_status(known)
    }

    /// Returns the schema rules that the grant violates. The rules depend only on the spec.
    fn broken_rules(&self, grant: &G) -> Vec<String> {
        let (uid, generation) = (grant.uid().unwrap_or_default(), grant.meta().generation);
        let Some(generation) = generation.filter(|_| !uid.is_empty()) else {
            return grant.check().err().unwrap_or_default();
        };
        let known = self.lock().get(&uid).and_then(|r| r.checked.clone());
        if let Some((_, broken)) = known.filter(|(checked, _)| *checked == generation) {
            return broken.into_vec();
        }
        let broken = grant.check().err().unwrap_or_default();
        self.of(&uid, |r| r.checked = Some((generation, broken.clone().into())));
        broken
    }

    /// Removes all facts about a deleted grant.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Removes the facts about all grants whose UIDs are not in `uids`. These grants were deleted while the watch was
    /// interrupted.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// Processes the metadata of a grant from the watch. Returns true if Valet must reconcile the grant, because the
    /// grant is new or has changed. If a user has changed the grant, for example its annotations, Valet also reads the
    /// Secret in the next reconcile. A user can therefore make Valet check the Secret at once.
    ///
    /// If Valet itself writes the status of a grant, no reconcile is needed. [`Self::foreign_status`] handles a status
    /// that a client other than Valet wrote. A change of labels or annotations causes a reconcile, because GitOps tools
    /// use labels and annotations for tracking.
    pub fn applied(&self, meta: &ObjectMeta) -> bool {
        let mut hasher = DefaultHasher::new();
        (meta.generation, &meta.labels, &meta.annotations).hash(&mut hasher);
        let by_users = hasher.finish();
        meta.finalizers.hash(&mut hasher);
        let triggers = hasher.finish();
        self.of(meta.uid.as_deref().unwrap_or_default(), |r| {
            let before = r.changed_by_users.replace(by_users);
            if before.is_some_and(|before| before != by_users) {
                r.secret.state = SecretState::MayHaveChanged;
            }
            r.triggers.replace(triggers) != Some(triggers)
        })
    }

    /// Records a failed reconcile, and returns the number of consecutive failures.
    pub fn failed(&self, uid: &str) -> u32 {
        self.of(uid, |r| {
            r.failures = r.failures.saturating_add(1);
            r.failures
        })
    }

    /// Sets the number of consecutive failures to zero after a successful reconcile.
    pub fn succeeded(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.failures = 0;
        }
    }
}

/// Returns the resource version of a grant as a number. Resource versions of one kind can be compared (KEP-5504). If
/// the resource version is not a number, the function returns 0. Valet then uses the grant from the watch.
fn version(grant: &impl ResourceExt) -> u128 {
    grant.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UploadGrant;

    /// The operator keeps one of these for each grant, so each byte counts. Put data that few grants have into a `Box`.
    #[test]
    fn state_of_a_grant_is_small() {
        let bytes = size_of::<GrantState<UploadGrant>>();
        assert!(bytes <= 368, "{bytes} bytes");
    }

    #[test]
    fn state_of_unlisted_grants_is_removed() {
        let local_state = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        for uid in ["a", "b"] {
            local_state.failed(uid);
        }
        local_state.retain(&HashSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!((local_state.failed("a"), local_state.failed("b")), (1, 2));
        local_state.forget_secret("no grant has this UID");
        assert!(!local_state.lock().contains_key("no grant has this UID"));
    }
}
