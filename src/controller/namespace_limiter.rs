//! Distributes the concurrent reconciles fairly among namespaces. Each namespace may use only a part of them. If a
//! namespace has reached its limit, its further objects wait in a queue. They do not delay the objects of different
//! namespaces.
//!
//! ObjectStores and their grants have a separate pool of permits. Tenants create ObjectStores. With the separate
//! pool, slow ObjectStores do not delay ClusterObjectStores and their grants.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::api::StoreKind;

/// In the pool for ClusterObjectStores, one namespace may use one quarter of the concurrent reconciles.
const SHARE: usize = 4;
/// These values apply to the pool for ObjectStores. One namespace may use one eighth of the configured concurrency
/// (`OWN_SHARE`). The whole pool has four times the configured concurrency (`OWN_TIMES`).
///
/// The pool therefore has room for 32 namespaces. If the ObjectStores of 31 namespaces do not answer, the reconciles
/// of one more namespace still run.
const OWN_SHARE: usize = 8;
const OWN_TIMES: usize = 4;

/// The permits for reconciles of one kind of resource, for example UploadGrants.
#[derive(Debug)]
pub struct NamespaceLimiter {
    /// The pool for ClusterObjectStores and their grants.
    shared: Pool,
    /// The pool for ObjectStores and their grants.
    own: Pool,
}

#[derive(Debug)]
struct Pool {
    /// The maximum number of concurrent reconciles in this pool.
    most: usize,
    /// The maximum number of concurrent reconciles for one namespace in this pool.
    each: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    namespaces: HashMap<String, Line>,
    /// The namespaces that have waiting objects. The next permit goes to an object of the first namespace. Each
    /// namespace is in the list once.
    round: VecDeque<String>,
}

/// The running reconciles and the waiting objects of one namespace.
#[derive(Debug, Default)]
struct Line {
    under_way: usize,
    /// The names of the waiting objects, in order of arrival. Each name is in the list once.
    waiting: VecDeque<String>,
    known: HashSet<String>,
}

/// A permit for one reconcile. When the value is dropped, the permit is free again.
pub struct NamespacePermit<'a, F: FnMut(&str, &str) -> bool> {
    pool: &'a Pool,
    namespace: &'a str,
    call: F,
}

impl NamespaceLimiter {
    /// Creates the two pools. The pool for ClusterObjectStores has `concurrency` permits. If the operator serves only
    /// one namespace (`one_namespace`), that namespace may use all permits.
    pub fn new(concurrency: u16, one_namespace: bool) -> Self {
        let all = usize::from(concurrency);
        let pool = |most: usize, share: usize| Pool {
            most,
            each: if one_namespace { most } else { all.div_ceil(share) },
            state: Mutex::default(),
        };
        Self {
            shared: pool(all, SHARE),
            own: pool(all * OWN_TIMES, OWN_SHARE),
        }
    }

    /// Returns the maximum number of concurrent reconciles of one kind of resource. The controller must allow at
    /// least this number. Otherwise reconciles for ObjectStores would have to wait for reconciles for
    /// ClusterObjectStores.
    pub fn concurrency(&self) -> u16 {
        u16::try_from(self.shared.most + self.own.most).unwrap_or(u16::MAX)
    }

    /// Takes a permit for this object if its namespace has a free permit. Otherwise the object joins the queue.
    ///
    /// When a reconcile ends, the limiter calls `call` with the next waiting object. `call` enqueues the object and
    /// returns true if the object exists. If it returns false, the limiter continues with the object after it.
    pub fn take<'a, F: FnMut(&str, &str) -> bool>(
        &'a self,
        kind: StoreKind,
        namespace: &'a str,
        name: &str,
        call: F,
    ) -> Option<NamespacePermit<'a, F>> {
        let pool = match kind {
            StoreKind::ClusterObjectStore => &self.shared,
            StoreKind::ObjectStore => &self.own,
        };
        pool.take(namespace, name)
            .then(|| NamespacePermit { pool, namespace, call })
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit if the pool has a free permit for the namespace. Otherwise adds the object to the queue.
    fn take(&self, namespace: &str, name: &str) -> bool {
        let mut state = self.lock();
        let State {
            under_way,
            namespaces,
            round,
        } = &mut *state;
        let line = namespaces.entry(namespace.to_owned()).or_default();
        if *under_way < self.most && line.under_way < self.each {
            *under_way += 1;
            line.under_way += 1;
            return true;
        }
        if line.known.insert(name.to_owned()) {
            if line.waiting.is_empty() {
                round.push_back(namespace.to_owned());
            }
            line.waiting.push_back(name.to_owned());
        }
        false
    }

    /// Releases the permit of a finished reconcile.
    fn end(&self, namespace: &str) {
        let mut state = self.lock();
        state.under_way = state.under_way.saturating_sub(1);
        if let Some(line) = state.namespaces.get_mut(namespace) {
            line.under_way = line.under_way.saturating_sub(1);
            if line.under_way == 0 && line.waiting.is_empty() {
                state.namespaces.remove(namespace);
            }
        }
    }

    /// Removes and returns the next waiting object. It is the first object of the next namespace that has not reached
    /// its limit.
    fn next(&self) -> Option<(String, String)> {
        let mut state = self.lock();
        for _ in 0..state.round.len() {
            let namespace = state.round.pop_front()?;
            let Some(line) = state.namespaces.get_mut(&namespace) else {
                continue;
            };
            let next = if line.under_way < self.each {
                line.waiting.pop_front()
            } else {
                None
            };
            if let Some(next) = &next {
                line.known.remove(next);
            }
            if !line.waiting.is_empty() {
                state.round.push_back(namespace.clone());
            } else if line.under_way == 0 {
                state.namespaces.remove(&namespace);
            }
            if let Some(next) = next {
                return Some((namespace, next));
            }
        }
        None
    }
}

impl<F: FnMut(&str, &str) -> bool> Drop for NamespacePermit<'_, F> {
    fn drop(&mut self) {
        self.pool.end(self.namespace);
        while let Some((namespace, name)) = self.pool.next() {
            if (self.call)(&namespace, &name) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: StoreKind = StoreKind::ClusterObjectStore;
    const OWN: StoreKind = StoreKind::ObjectStore;

    #[test]
    fn namespace_over_its_share_is_queued_and_others_are_not() {
        let turns = NamespaceLimiter::new(8, false);
        let called = Mutex::new(vec![]);
        let take = |namespace: &'static str, name: &str| {
            turns.take(SHARED, namespace, name, |_: &str, next: &str| {
                called.lock().unwrap().push(next.to_owned());
                next != "gone"
            })
        };
        let (first, second) = (take("loud", "1"), take("loud", "2"));
        assert!(first.is_some() && second.is_some());
        for name in ["3", "gone", "4", "3"] {
            assert!(
                take("loud", name).is_none(),
                "a namespace must get at most 2 permits, a quarter of 8"
            );
        }
        assert!(
            take("quiet", "1").is_some(),
            "another namespace must have a share of its own"
        );
        drop(first);
        assert_eq!(*called.lock().unwrap(), ["3"]);
        let third = take("loud", "3");
        assert!(third.is_some());
        drop((second, third));
        assert_eq!(
            *called.lock().unwrap(),
            ["3", "gone", "4"],
            "each object must be enqueued once, and a deleted object must be skipped"
        );
        assert!(
            turns.shared.lock().namespaces.is_empty(),
            "the limiter must remove entries without reconciles"
        );
    }

    /// The ObjectStores of many namespaces do not answer. Reconciles for ClusterObjectStores still receive permits.
    #[test]
    fn tenant_stores_take_no_permits_of_cluster_object_stores() {
        let turns = NamespaceLimiter::new(32, false);
        let namespaces: Vec<_> = (0..100).map(|n| format!("loud-{n}")).collect();
        let no_call = |_: &str, _: &str| true;
        let mut held = Vec::new();
        for namespace in &namespaces {
            for name in ["1", "2", "3", "4", "5", "6"] {
                held.extend(turns.take(OWN, namespace, name, no_call));
            }
        }
        assert_eq!(held.len(), 128, "the test must use the whole pool of 128 permits");
        let quiet: Vec<_> = (0..8)
            .filter_map(|n| turns.take(SHARED, "quiet", &n.to_string(), no_call))
            .collect();
        assert_eq!(
            quiet.len(),
            8,
            "the other namespace must get its share of the shared pool"
        );
        let loud: Vec<_> = (0..9)
            .filter_map(|n| turns.take(SHARED, "loud-0", &n.to_string(), no_call))
            .collect();
        assert_eq!(
            loud.len(),
            8,
            "the namespace must also keep its share of the shared pool"
        );
    }

    /// If all permits of a pool are in use, the waiting namespaces receive the next permits in turn.
    #[test]
    fn waiting_namespaces_are_served_in_rotation() {
        let turns = NamespaceLimiter::new(1, false);
        let called = Mutex::new(vec![]);
        let call = |namespace: &str, name: &str| {
            called.lock().unwrap().push(format!("{namespace}/{name}"));
            true
        };
        let taken: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .filter_map(|n| turns.take(OWN, n, "1", call))
            .collect();
        assert_eq!(taken.len(), 4);
        for (namespace, name) in [("e", "1"), ("e", "2"), ("e", "3"), ("f", "1")] {
            assert!(turns.take(OWN, namespace, name, call).is_none());
        }
        drop(taken);
        assert_eq!(*called.lock().unwrap(), ["e/1", "f/1", "e/2", "e/3"]);
        assert!(turns.own.lock().namespaces.is_empty() && turns.own.lock().round.is_empty());
    }

    #[test]
    fn only_namespace_has_all_permits_and_every_namespace_has_one() {
        for (concurrency, one, shared, own) in [
            (32, true, 32, 128),
            (32, false, 8, 4),
            (1, false, 1, 1),
            (5, false, 2, 1),
            (1, true, 1, 4),
        ] {
            let turns = NamespaceLimiter::new(concurrency, one);
            assert_eq!((turns.shared.each, turns.own.each), (shared, own));
        }
    }
}
