use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::core::Signer;
use crate::core::StoreId;

/// What each store signs with, and since when, as far as this process knows. It outlasts times in which a store cannot be
/// used, as between the old credentials and the new ones.
#[derive(Default)]
pub struct Signers(Mutex<HashMap<StoreId, Known>>);

struct Known {
    signer: Signer,
    /// Whether the store's grants must hear of it.
    is_news: bool,
}

impl Signers {
    fn lock(&self) -> MutexGuard<'_, HashMap<StoreId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store signs with what has this fingerprint.
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
        // Of the first one there is no news: at the start every grant is visited anyway.
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

    /// The store is gone.
    pub fn forget(&self, id: &StoreId) {
        self.lock().remove(id);
    }

    /// Whether the store signs with something else since this was last asked.
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
    fn a_change_is_told_once_and_the_first_is_none() {
        let signers = Signers::default();
        let id = |name: &str| (StoreKind::ClusterObjectStore, String::new(), name.to_owned());
        let first = signers.seen(&id("a"), "one".into());
        assert!(!signers.changed(&id("a")) && !signers.changed(&id("b")));
        assert_eq!(signers.seen(&id("a"), "one".into()), first, "since the first time");
        assert!(!signers.changed(&id("a")));
        assert_ne!(signers.seen(&id("a"), "two".into()), first);
        signers.seen(&id("b"), "two".into());
        assert!(signers.changed(&id("a")) && !signers.changed(&id("a")));
        assert!(!signers.changed(&id("b")));
    }
}
