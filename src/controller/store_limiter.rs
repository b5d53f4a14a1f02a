//! Limits how many reconciles may wait for answers from one store at the same time. Because of this limit, a slow store
//! does not block the reconciles of grants for other stores.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::slot::lock;
use crate::{
    api::{Operation, StoreKind},
    core::StoreId,
    fairness::{FairLimiter, Limits, Permit},
};

/// By default, one store may use one quarter of the concurrent reconciles. Slow stores can therefore block the
/// reconciles for other stores only if four stores are slow at the same time.
const SHARE: usize = 4;
/// An ObjectStore may use at most one sixteenth of the concurrent reconciles, and its spec cannot raise this limit. One
/// namespace may use one eighth. A slow ObjectStore can therefore use only half of the share of its namespace. The
/// other half is free for the other ObjectStores of the namespace.
const OWN_SHARE: usize = 16;
/// When a permit becomes free, Valet enqueues the next waiting grant and reserves the permit for this grant for 5
/// seconds. If the grant does not take the permit in this time, the permit is free again. The grant may have been
/// deleted, for example.
const KEPT: Duration = Duration::from_secs(5);

/// The operation and name of a grant. The namespace of the grant is the key of the limiter.
type Name = (Operation, String);

/// For each store, the permits for reconciles that send requests to the store.
pub struct StoreLimiter {
    most: usize,
    /// The maximum number of reconciles that may use one ObjectStore at one time.
    most_of_own: usize,
    /// The limits from the specs of the stores.
    specs: Mutex<HashMap<StoreId, usize>>,
    limiter: Arc<FairLimiter<StoreId, Name>>,
}

/// A permit to send requests to a store. When the value is dropped, the permit is free again.
pub type StorePermit = Permit<StoreId, Name>;

impl StoreLimiter {
    /// Creates a limiter. The operator runs at most `concurrency` reconciles of each kind of grant. When a waiting
    /// grant can receive a permit, the limiter calls `call` with the operation, the namespace and the name of the
    /// grant. `call` enqueues the grant and returns true if the grant exists.
    pub fn new(concurrency: u16, call: impl Fn(Operation, &str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            most: usize::from(concurrency).div_ceil(SHARE),
            most_of_own: usize::from(concurrency).div_ceil(OWN_SHARE),
            specs: Mutex::default(),
            limiter: FairLimiter::new(move |_, namespace, (operation, name): &Name| {
                call(*operation, namespace, name)
            }),
        }
    }

    /// Sets the limit from the store's spec. With `None`, only the default limit applies.
    pub fn limit(&self, id: &StoreId, most: Option<i64>) {
        match most.and_then(|n| usize::try_from(n).ok()) {
            Some(most) => lock(&self.specs).insert(id.clone(), most),
            None => lock(&self.specs).remove(id),
        };
    }

    fn limits(&self, id: &StoreId) -> Limits {
        let spec = lock(&self.specs).get(id).copied();
        let total = match id.0 {
            StoreKind::ClusterObjectStore => spec.unwrap_or(self.most),
            StoreKind::ObjectStore => spec.unwrap_or(self.most_of_own).min(self.most_of_own),
        };
        Limits {
            total,
            per_key: total,
            per_key_alone: total,
            reservation: KEPT,
        }
    }

    /// Takes a permit for this grant if the store has a free permit. Otherwise the grant waits in the queue of the
    /// store. Valet reconciles the grant again when a permit is free.
    ///
    /// # Errors
    ///
    /// If no permit is free, returns an estimate of the waiting time as a number of rounds. In one round, each permit
    /// of the store serves one grant that is earlier in the queue.
    pub fn take(
        &self,
        id: &StoreId,
        (operation, namespace, name): (Operation, &str, &str),
    ) -> Result<StorePermit, usize> {
        let limits = self.limits(id);
        let permit = self.limiter.take(id, limits, namespace, (operation, name.to_owned()));
        permit.map_err(|waiting| waiting.div_ceil(limits.total.max(1)))
    }

    /// Records that a reconcile of this grant has ended. If Valet had reserved a permit for the grant and the reconcile
    /// did not use this permit, the next grant in the queue receives it. For example, the reconcile of a suspended
    /// grant needs no permit.
    pub fn reconciled(&self, id: &StoreId, (operation, namespace, name): (Operation, &str, &str)) {
        self.limiter.cancel(id, namespace, &(operation, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> StoreId {
        (StoreKind::ClusterObjectStore, String::new(), name.into())
    }

    #[test]
    fn store_has_its_share_and_namespaces_are_served_in_rotation() {
        let called = Arc::new(Mutex::new(vec![]));
        let log = called.clone();
        let requests = Arc::new(StoreLimiter::new(8, move |_, namespace, name| {
            log.lock().unwrap().push(format!("{namespace}/{name}"));
            true
        }));
        let slow = store("slow");
        let take = |namespace: &str, name: &str| requests.take(&slow, (Operation::Upload, namespace, name));
        let (first, second) = (take("a", "1"), take("a", "2"));
        assert!(
            first.is_ok() && second.is_ok(),
            "a store must get 2 permits, a quarter of 8"
        );
        let rounds = ["3", "4", "5", "3"].map(|name| take("a", name).err());
        assert_eq!(rounds, [Some(1), Some(1), Some(2), Some(2)]);
        assert!(take("b", "1").is_err());
        assert!(
            requests.take(&store("quick"), (Operation::Upload, "a", "9")).is_ok(),
            "another store must have a limit of its own"
        );
        drop((first, second));
        assert!(
            take("c", "1").is_err(),
            "the limiter must keep the free permit for the enqueued grant"
        );
        for (namespace, name) in [("a", "3"), ("b", "1"), ("a", "4"), ("c", "1"), ("a", "5")] {
            let permit = take(namespace, name);
            assert!(permit.is_ok(), "{namespace}/{name}");
        }
        assert_eq!(
            *called.lock().unwrap(),
            ["a/3", "b/1", "a/4", "c/1", "a/5"],
            "the limiter must alternate between the namespaces"
        );
        assert!(
            requests.limiter.is_idle(),
            "the limiter must have no entries if no reconcile runs or waits"
        );
    }

    /// A namespace that creates and deletes many grants does not delay the grants of other namespaces.
    #[test]
    fn permit_reserved_for_a_deleted_grant_goes_to_the_next_one() {
        let called = Arc::new(Mutex::new(vec![]));
        let log = called.clone();
        let requests = Arc::new(StoreLimiter::new(4, move |_, namespace, name| {
            log.lock().unwrap().push(format!("{namespace}/{name}"));
            name != "gone"
        }));
        let id = store("shared");
        let take = |namespace: &str, name: &str| requests.take(&id, (Operation::Upload, namespace, name));
        let first = take("a", "1");
        assert!(first.is_ok());
        for (namespace, name) in [("a", "gone"), ("a", "held back"), ("b", "1"), ("b", "2")] {
            assert!(take(namespace, name).is_err());
        }
        drop(first);
        assert_eq!(
            *called.lock().unwrap(),
            ["a/gone", "b/1"],
            "the limiter must skip a deleted grant"
        );
        assert!(
            take("c", "1").is_err(),
            "the free permit must be reserved for a grant that still exists"
        );
        let second = take("b", "1");
        assert!(second.is_ok());
        drop(second);
        assert_eq!(called.lock().unwrap().last().unwrap(), "a/held back");
        requests.reconciled(&id, (Operation::Upload, "b", "1"));
        assert_eq!(
            called.lock().unwrap().len(),
            3,
            "the end of a reconcile without a reserved permit must not enqueue another grant"
        );
        requests.reconciled(&id, (Operation::Upload, "a", "held back"));
        assert_eq!(
            called.lock().unwrap().last().unwrap(),
            "b/2",
            "an unused permit must go to the next grant in the queue"
        );
    }

    #[test]
    fn tenant_store_cannot_raise_its_concurrency_limit() {
        let requests = Arc::new(StoreLimiter::new(32, |_, _, _| true));
        let id = (StoreKind::ObjectStore, "a".to_owned(), "own".to_owned());
        let held = |limit| {
            requests.limit(&id, limit);
            let names = (0..100).map(|n| n.to_string());
            let permits: Vec<_> = names
                .filter_map(|name| requests.take(&id, (Operation::Upload, "a", &name)).ok())
                .collect();
            permits.len()
        };
        assert_eq!([None, Some(1), Some(1000)].map(held), [2, 1, 2]);
    }

    #[test]
    fn store_can_set_its_concurrency_limit() {
        let requests = Arc::new(StoreLimiter::new(32, |_, _, _| true));
        let id = store("slow");
        requests.limit(&id, Some(1));
        let one = requests.take(&id, (Operation::Upload, "a", "1"));
        assert!(one.is_ok());
        assert!(requests.take(&id, (Operation::Download, "a", "1")).is_err());
        requests.limit(&id, None);
        assert!(
            requests.take(&id, (Operation::Download, "a", "1")).is_ok(),
            "without a limit of its own, the store must have the default limit of 8 requests"
        );
        let gone = store("gone");
        requests.limit(&gone, Some(1));
        requests.limit(&gone, None);
        assert!(
            lock(&requests.specs).is_empty(),
            "the limiter must remove the entry of a deleted store"
        );
    }
}
