use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::core::{Signer, StoreId};

/// The first signer of a store counts as known from the start of the process if Valet sees it within this time. Without
/// this rule, each reconcile that starts before Valet has read the credentials of the store would read its Secret.
const STARTING: SignedDuration = SignedDuration::from_mins(1);

/// The signer of each store, and the time at which this process first saw the signer. Valet keeps the entry of a store
/// that it temporarily cannot use, for example while somebody replaces the store's credentials.
pub struct Signers {
    started: Timestamp,
    known: Mutex<HashMap<StoreId, Known>>,
}

struct Known {
    signer: Signer,
    /// True if the signer has changed and Valet has not enqueued the grants of the store yet.
    is_news: bool,
}

impl Signers {
    /// Creates the list without signers. `started` is the start of the process.
    pub fn new(started: Timestamp) -> Self {
        Self {
            started,
            known: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the fingerprint of the store's current signer, and returns the signer.
    pub fn seen(&self, id: &StoreId, fingerprint: String, now: Timestamp) -> Signer {
        let mut all = self.lock();
        let known = all.get(id);
        if let Some(known) = known.filter(|k| k.signer.fingerprint == fingerprint) {
            return known.signer.clone();
        }
        // The first signer of a store does not count as a change, because the operator reconciles every grant after its
        // start.
        let is_news = known.is_some();
        let is_starting = now.duration_since(self.started) < STARTING;
        let since = if is_news || !is_starting { now } else { self.started };
        let signer = Signer { fingerprint, since };
        all.insert(
            id.clone(),
            Known {
                signer: signer.clone(),
                is_news,
            },
        );
        signer
    }

    /// Removes the entry of a deleted store.
    pub fn forget(&self, id: &StoreId) {
        self.lock().remove(id);
    }

    /// Returns true if the store's signer has changed since the last call of this method.
    pub fn changed(&self, id: &StoreId) -> bool {
        let mut all = self.lock();
        all.get_mut(id).is_some_and(|known| std::mem::take(&mut known.is_news))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoreKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn signer_change_is_reported_once_and_the_first_is_no_change() {
        let signers = Signers::new(at(0));
        let id = |name: &str| (StoreKind::ClusterObjectStore, String::new(), name.to_owned());
        let first = signers.seen(&id("a"), "one".into(), at(1));
        assert!(!signers.changed(&id("a")) && !signers.changed(&id("b")));
        assert_eq!(
            signers.seen(&id("a"), "one".into(), at(1)),
            first,
            "the start time of the signer must stay the same"
        );
        assert!(!signers.changed(&id("a")));
        assert_ne!(signers.seen(&id("a"), "two".into(), at(1)), first);
        signers.seen(&id("b"), "two".into(), at(1));
        assert!(signers.changed(&id("a")) && !signers.changed(&id("a")));
        assert!(!signers.changed(&id("b")));
    }

    #[test]
    fn first_signer_after_the_start_is_known_from_the_start() {
        let signers = Signers::new(at(0));
        let since = |store: &str, fingerprint: &str, second| {
            let id = (StoreKind::ClusterObjectStore, String::new(), store.to_owned());
            signers.seen(&id, fingerprint.into(), at(second)).since
        };
        assert_eq!(since("a", "one", 5), at(0));
        assert_eq!(since("a", "two", 6), at(6), "the credentials have changed");
        assert_eq!(since("b", "one", 59), at(0));
        assert_eq!(since("c", "one", 60), at(60), "the store may have been created again");
    }
}
