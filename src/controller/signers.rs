use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::core::Signer;
use crate::core::StoreId;

/// The signer of each store, and the time at which this process first saw the signer. Valet keeps the entry of a store
/// that it temporarily cannot use, for example while somebody replaces the store's credentials.
#[derive(Default)]
pub struct Signers(Mutex<HashMap<StoreId, Known>>);

struct Known {
    signer: Signer,
    /// True if the signer has changed and Valet has not enqueued the grants of the store yet.
    is_news: bool,
}

impl Signers {
    fn lock(&self) -> MutexGuard<'_, HashMap<StoreId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the fingerprint of the store's current signer, and returns the signer.
    pub fn seen(&self, id: &StoreId, fingerprint: String) -> Signer {
        let mut all = self.lock();
        let known = all.get(id);
        if let Some(known) = known.filter(|k| k.signer.fingerprint == fingerprint) {
            return known.signer.clone();
        }
        let signer = Signer {
            fingerprint,
            since: Timestamp::now(),
        };
        // The first signer of a store does not count as a change, because the operator reconciles every grant after its
        // start.
        let is_news = known.is_some();
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

    #[test]
    fn signer_change_is_reported_once_and_the_first_is_no_change() {
        let signers = Signers::default();
        let id = |name: &str| (StoreKind::ClusterObjectStore, String::new(), name.to_owned());
        let first = signers.seen(&id("a"), "one".into());
        assert!(!signers.changed(&id("a")) && !signers.changed(&id("b")));
        assert_eq!(
            signers.seen(&id("a"), "one".into()),
            first,
            "the start time of the signer must stay the same"
        );
        assert!(!signers.changed(&id("a")));
        assert_ne!(signers.seen(&id("a"), "two".into()), first);
        signers.seen(&id("b"), "two".into());
        assert!(signers.changed(&id("a")) && !signers.changed(&id("a")));
        assert!(!signers.changed(&id("b")));
    }
}
