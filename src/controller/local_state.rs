mod memory;
mod secret;
mod status;
mod table;
mod upload;

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use kube::{ResourceExt, core::ObjectMeta};

pub use table::LocalState;
use table::version;

use super::timers::Timers;
use crate::{
    api::Grant,
    core::{GrantFacts, SecretState},
};

impl<G: Grant> LocalState<G> {
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

    /// Returns the timers of the next reconciles of all grants.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Starts the timer of a grant's next reconcile. The timer replaces the earlier timer of the grant.
    pub fn start_timer(&self, grant: &impl ResourceExt, pause: Duration) {
        let (namespace, name) = (grant.namespace().unwrap_or_default(), grant.name_any());
        let timer = self.timers.start(&namespace, &name, pause);
        self.of(&grant.uid().unwrap_or_default(), |r| r.timer = Some(timer));
    }

    /// Stops the timer of a grant, because a reconcile of the grant starts.
    pub fn stop_timer(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.timer = None;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::UploadGrant, core::record::RecordKey};

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
