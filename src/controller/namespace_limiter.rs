//! Limits how many reconciles one namespace may run at the same time. If a namespace has reached its limit, its
//! remaining objects wait. The objects of other namespaces do not wait for them.
//!
//! ObjectStores and their grants have a separate pool of permits. Tenants create ObjectStores. With the separate
//! pool, slow ObjectStores do not delay ClusterObjectStores and their grants.

use std::{sync::Arc, time::Duration};

use crate::{
    api::StoreKind,
    fairness::{FairLimiter, Limits, Permit},
};

/// One namespace may use one quarter of the permits in the pool for ClusterObjectStores.
const SHARE: usize = 4;
/// If no other namespace uses or waits for a permit, a namespace may use four times its share. However, one share stays
/// free for the next namespace, because the running reconciles of the first one can take until their deadline.
const ALONE_TIMES: usize = 4;
/// These values apply to the pool for ObjectStores. One namespace may use one eighth of the configured concurrency
/// (`OWN_SHARE`). The whole pool has four times the configured concurrency (`OWN_TIMES`).
///
/// The pool therefore has room for 32 namespaces. If the ObjectStores of 31 namespaces do not answer, the reconciles
/// of one more namespace still run.
const OWN_SHARE: usize = 8;
const OWN_TIMES: usize = 4;

/// Normally Valet enqueues a waiting object when a running reconcile of its namespace ends, and reserves a permit for
/// it. If this does not happen, the object tries again after 5 seconds. A reservation ends after the same time.
pub const QUEUED_PAUSE: Duration = Duration::from_secs(5);

/// The permits for reconciles of one kind of resource, for example UploadGrants.
pub struct NamespaceLimiter {
    /// The limits for ClusterObjectStores and their grants.
    shared: Limits,
    /// The limits for ObjectStores and their grants.
    own: Limits,
    limiter: Arc<FairLimiter<StoreKind, String>>,
}

/// A permit for one reconcile. When the value is dropped, the permit is free again.
pub type NamespacePermit = Permit<StoreKind, String>;

impl NamespaceLimiter {
    /// Creates the two pools. The pool for ClusterObjectStores has `concurrency` permits. If the operator serves only
    /// one namespace (`one_namespace`), that namespace may use all permits.
    ///
    /// When a reconcile ends, the limiter calls `call` with the namespace and the name of the next waiting object.
    /// `call` enqueues the object and returns true if the object exists. If it returns false, the limiter continues
    /// with the object after it.
    pub fn new(
        concurrency: u16,
        one_namespace: bool,
        call: impl Fn(&str, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let all = usize::from(concurrency);
        let limits = |total: usize, share: usize| {
            let per_key = if one_namespace { total } else { all.div_ceil(share) };
            Limits {
                total,
                per_key,
                per_key_alone: (per_key * ALONE_TIMES).min(total - per_key).max(per_key),
                reservation: QUEUED_PAUSE,
            }
        };
        Self {
            shared: limits(all, SHARE),
            own: limits(all * OWN_TIMES, OWN_SHARE),
            limiter: FairLimiter::new(move |_, namespace, name: &String| call(namespace, name)),
        }
    }

    /// Returns the maximum number of concurrent reconciles of one kind of resource. The kube-rs controller must allow
    /// at least this number. With a lower number, reconciles for ObjectStores and for ClusterObjectStores would delay
    /// each other.
    pub fn concurrency(&self) -> u16 {
        u16::try_from(self.shared.total + self.own.total).unwrap_or(u16::MAX)
    }

    /// Returns true if objects wait for a permit of this pool.
    pub fn has_waiting(&self, kind: StoreKind) -> bool {
        self.limiter.has_waiting(&kind)
    }

    /// Takes a permit for this object if its namespace has a free permit. Otherwise the object waits.
    pub fn take(&self, kind: StoreKind, namespace: &str, name: &str) -> Option<NamespacePermit> {
        let limits = match kind {
            StoreKind::ClusterObjectStore => self.shared,
            StoreKind::ObjectStore => self.own,
        };
        self.limiter.take(&kind, limits, namespace, name.to_owned()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SHARED: StoreKind = StoreKind::ClusterObjectStore;
    const OWN: StoreKind = StoreKind::ObjectStore;

    type Called = Arc<Mutex<Vec<String>>>;

    /// Returns a limiter and a list. The limiter adds each object that it enqueues to this list. An object with the
    /// name `gone` does not exist.
    fn limiter(concurrency: u16) -> (NamespaceLimiter, Called) {
        let called = Called::default();
        let log = called.clone();
        let call = move |namespace: &str, name: &str| {
            log.lock().unwrap().push(format!("{namespace}/{name}"));
            name != "gone"
        };
        (NamespaceLimiter::new(concurrency, false, call), called)
    }

    #[test]
    fn namespace_over_its_share_is_queued_and_others_are_not() {
        let (namespace_limiter, called) = limiter(8);
        let take = |namespace: &str, name: &str| namespace_limiter.take(SHARED, namespace, name);
        let quiet = take("quiet", "1");
        let (first, second) = (take("loud", "1"), take("loud", "2"));
        assert!(quiet.is_some() && first.is_some() && second.is_some());
        for name in ["3", "gone", "4", "3"] {
            assert!(
                take("loud", name).is_none(),
                "a namespace must get at most 2 permits, a quarter of 8"
            );
        }
        assert!(
            take("quiet", "2").is_some(),
            "another namespace must have a share of its own"
        );
        drop(first);
        assert_eq!(*called.lock().unwrap(), ["loud/3"]);
        let third = take("loud", "3");
        assert!(third.is_some());
        drop((second, third));
        assert_eq!(
            *called.lock().unwrap(),
            ["loud/3", "loud/gone", "loud/4"],
            "each object must be enqueued once, and a deleted object must be skipped"
        );
        drop((take("loud", "4"), quiet));
        assert!(
            namespace_limiter.limiter.is_idle(),
            "the limiter must have no entries if no reconcile runs or waits"
        );
    }

    #[test]
    fn namespace_without_competitors_has_three_quarters() {
        let (namespace_limiter, called) = limiter(8);
        let take = |namespace: &str, name: &str| namespace_limiter.take(SHARED, namespace, name);
        let mut permits: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(|n| take("loud", n)).into();
        assert!(permits.iter().all(Option::is_some));
        assert!(take("loud", "7").is_none() && take("loud", "8").is_none());
        let quiet = take("quiet", "1");
        assert!(quiet.is_some(), "the other namespace must get a permit at once");
        permits.truncate(2);
        assert!(
            called.lock().unwrap().is_empty(),
            "the first namespace must now have only its share"
        );
        drop(quiet);
        assert_eq!(*called.lock().unwrap(), ["loud/7", "loud/8"]);
    }

    /// The ObjectStores of many namespaces do not answer. Reconciles for ClusterObjectStores still receive permits.
    #[test]
    fn tenant_stores_take_no_permits_of_cluster_object_stores() {
        let (namespace_limiter, _) = limiter(32);
        let namespaces: Vec<_> = (0..100).map(|n| format!("loud-{n}")).collect();
        let mut held = Vec::new();
        for namespace in &namespaces {
            for name in ["1", "2", "3", "4", "5", "6"] {
                held.extend(namespace_limiter.take(OWN, namespace, name));
            }
        }
        assert_eq!(held.len(), 128, "the test must use the whole pool of 128 permits");
        let quiet: Vec<_> = (0..8)
            .filter_map(|n| namespace_limiter.take(SHARED, "quiet", &n.to_string()))
            .collect();
        assert_eq!(
            quiet.len(),
            8,
            "the other namespace must get its share of the shared pool"
        );
        let loud: Vec<_> = (0..9)
            .filter_map(|n| namespace_limiter.take(SHARED, "loud-0", &n.to_string()))
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
        let (namespace_limiter, called) = limiter(1);
        let taken: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .filter_map(|n| namespace_limiter.take(OWN, n, "1"))
            .collect();
        assert_eq!(taken.len(), 4);
        for (namespace, name) in [("e", "1"), ("e", "2"), ("e", "3"), ("f", "1")] {
            assert!(namespace_limiter.take(OWN, namespace, name).is_none());
        }
        drop(taken);
        assert_eq!(*called.lock().unwrap(), ["e/1", "f/1"]);
        for (namespace, name) in [("e", "1"), ("f", "1"), ("e", "2"), ("e", "3")] {
            drop(namespace_limiter.take(OWN, namespace, name));
        }
        assert_eq!(*called.lock().unwrap(), ["e/1", "f/1", "e/2", "e/3"]);
        assert!(namespace_limiter.limiter.is_idle());
    }

    #[test]
    fn namespace_without_competitors_leaves_one_share_free() {
        for (concurrency, one, shared, own) in [
            (32, false, 24, 16),
            (8, false, 6, 4),
            (3, false, 2, 4),
            (2, false, 1, 4),
            (1, false, 1, 3),
            (32, true, 32, 128),
        ] {
            let namespace_limiter = NamespaceLimiter::new(concurrency, one, |_, _| true);
            let alone = (
                namespace_limiter.shared.per_key_alone,
                namespace_limiter.own.per_key_alone,
            );
            assert_eq!(alone, (shared, own), "--concurrency={concurrency}");
        }
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
            let namespace_limiter = NamespaceLimiter::new(concurrency, one, |_, _| true);
            assert_eq!(
                (namespace_limiter.shared.per_key, namespace_limiter.own.per_key),
                (shared, own)
            );
        }
    }
}
