//! Limits the number of reconciles that may wait for one store at one time. If one store is slow, the reconciles of
//! grants for different stores therefore continue.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::api::{Operation, StoreKind};
use crate::core::StoreId;

/// By default, one store may use one quarter of the concurrent reconciles. Slow stores can therefore block the fast
/// stores only if four stores are slow at one time.
const SHARE: usize = 4;
/// An ObjectStore may use at most one sixteenth of the concurrent reconciles, and its spec cannot raise this limit.
/// One namespace may use one eighth. If one ObjectStore of a namespace is slow, half of this share is still free for
/// the remaining ObjectStores of the namespace.
const OWN_SHARE: usize = 16;
/// When Valet enqueues a grant, it reserves a permit for this grant for 5 seconds. If the grant does not take the
/// permit in this time, the permit is free again, because the grant may no longer exist.
const KEPT: Duration = Duration::from_secs(5);

/// The operation, namespace and name of a grant.
type Who = (Operation, String, String);

/// A function that enqueues the grant with this operation, namespace and name. It returns true if the grant exists.
pub type EnqueueGrant = Box<dyn Fn(Operation, &str, &str) -> bool + Send + Sync>;

/// For each store, the reconciles that have a permit for the store and the grants that wait for a permit.
pub struct StoreLimiter {
    most: usize,
    /// The maximum number of reconciles that may use one ObjectStore at one time.
    most_of_own: usize,
    stores: Mutex<HashMap<StoreId, Store>>,
    call: EnqueueGrant,
}

#[derive(Debug, Default)]
struct Store {
    /// The limit from the store's spec: the maximum number of reconciles that may use the store at one time.
    most: Option<usize>,
    under_way: usize,
    /// The namespaces that have waiting grants. The next permit goes to a grant of the first namespace. Each
    /// namespace is in the list once.
    turns: VecDeque<String>,
    /// The waiting grants of each namespace, in order of arrival.
    lines: HashMap<String, VecDeque<Who>>,
    known: HashSet<Who>,
    /// Grants that Valet has enqueued and that have not requested a permit after that. Valet has reserved a permit
    /// for each of these grants.
    called: HashMap<Who, Instant>,
}

/// A permit to send requests to a store. When the value is dropped, the permit is free again.
pub struct StorePermit {
    requests: Arc<StoreLimiter>,
    store: StoreId,
}

impl StoreLimiter {
    /// Creates a limiter. The operator runs at most `concurrency` reconciles of each kind of grant. The function
    /// `call` enqueues a grant that can receive a permit.
    pub fn new(concurrency: u16, call: impl Fn(Operation, &str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            most: usize::from(concurrency).div_ceil(SHARE),
            most_of_own: usize::from(concurrency).div_ceil(OWN_SHARE),
            stores: Mutex::default(),
            call: Box::new(call),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreId, Store>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limit from the store's spec. With `None`, only the default limit applies.
    pub fn limit(&self, id: &StoreId, most: Option<i64>) {
        let most = most.and_then(|n| usize::try_from(n).ok());
        let mut stores = self.lock();
        match stores.get_mut(id) {
            Some(store) => {
                store.most = most;
                if store.is_idle() {
                    stores.remove(id);
                }
            }
            None if most.is_some() => {
                let store = Store {
                    most,
                    ..Store::default()
                };
                stores.insert(id.clone(), store);
            }
            None => {}
        }
    }

    /// Takes a permit for this grant if the store has a free permit. Otherwise the grant joins the queue, and Valet
    /// enqueues it when a permit is free.
    ///
    /// # Errors
    ///
    /// Returns the number of rounds for which the grant must wait. In each round, grants that come earlier use all
    /// permits of the store.
    pub fn take(
        self: &Arc<Self>,
        id: &StoreId,
        (operation, namespace, name): (Operation, &str, &str),
    ) -> Result<StorePermit, usize> {
        let mut stores = self.lock();
        let store = stores.entry(id.clone()).or_default();
        let most = match id.0 {
            StoreKind::ClusterObjectStore => store.most.unwrap_or(self.most),
            StoreKind::ObjectStore => store.most.unwrap_or(self.most_of_own).min(self.most_of_own),
        };
        let who = (operation, namespace.to_owned(), name.to_owned());
        store.called.retain(|_, when| when.elapsed() < KEPT);
        store.called.remove(&who);
        if store.under_way + store.called.len() < most {
            store.under_way += 1;
            return Ok(StorePermit {
                requests: self.clone(),
                store: id.clone(),
            });
        }
        if store.known.insert(who.clone()) {
            let line = store.lines.entry(namespace.to_owned()).or_default();
            if line.is_empty() {
                store.turns.push_back(namespace.to_owned());
            }
            line.push_back(who);
        }
        Err(store.known.len().div_ceil(most))
    }

    /// Records that a reconcile of this grant has ended. If Valet reserved a permit for the grant and the reconcile
    /// did not use it, the next grant receives the permit. For example, the reconcile needs no permit if the grant is
    /// suspended.
    pub fn visited(&self, id: &StoreId, (operation, namespace, name): (Operation, &str, &str)) {
        let who = (operation, namespace.to_owned(), name.to_owned());
        let was_called = self.lock().get_mut(id).is_some_and(|s| s.called.remove(&who).is_some());
        if was_called {
            self.call_next(id);
        }
    }

    /// Enqueues the next waiting grant that still exists.
    fn call_next(&self, id: &StoreId) {
        while let Some(who) = self.next(id) {
            if (self.call)(who.0, &who.1, &who.2) {
                return;
            }
            if let Some(store) = self.lock().get_mut(id) {
                store.called.remove(&who);
            }
        }
    }

    /// Removes the next grant from the queue, and reserves a permit for it.
    fn next(&self, id: &StoreId) -> Option<Who> {
        let mut stores = self.lock();
        let store = stores.get_mut(id)?;
        let next = store.next();
        match &next {
            Some(who) => {
                store.called.insert(who.clone(), Instant::now());
            }
            None if store.is_idle() => {
                stores.remove(id);
            }
            None => {}
        }
        next
    }
}

impl Store {
    /// Returns true if the entry of the store contains no information and can be removed.
    fn is_idle(&self) -> bool {
        self.most.is_none() && self.under_way == 0 && self.known.is_empty() && self.called.is_empty()
    }

    /// Removes and returns the first waiting grant of the next namespace.
    fn next(&mut self) -> Option<Who> {
        let namespace = self.turns.pop_front()?;
        let line = self.lines.get_mut(&namespace)?;
        let who = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        self.known.remove(&who);
        Some(who)
    }
}

impl Drop for StorePermit {
    fn drop(&mut self) {
        if let Some(store) = self.requests.lock().get_mut(&self.store) {
            store.under_way = store.under_way.saturating_sub(1);
        }
        self.requests.call_next(&self.store);
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
            "the free permit must be reserved for the enqueued grant"
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
            requests.lock().is_empty(),
            "the limiter must remove entries without reconciles"
        );
    }

    /// If one namespace creates and deletes many grants, this does not delay the grants of a second namespace.
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
        requests.visited(&id, (Operation::Upload, "b", "1"));
        assert_eq!(
            called.lock().unwrap().len(),
            3,
            "the end of an ordinary reconcile must not enqueue another grant"
        );
        requests.visited(&id, (Operation::Upload, "a", "held back"));
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
            !requests.lock().contains_key(&gone),
            "the limiter must remove the entry of a deleted store"
        );
    }
}
