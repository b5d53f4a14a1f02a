use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::pool::{Limits, Pool};

/// The function with which the limiter tells an item that a permit is free. The arguments are the pool, the key and
/// the item. The function returns false if the item no longer exists.
type Call<P, I> = Box<dyn Fn(&P, &str, &I) -> bool + Send + Sync>;

/// Limits how much work runs at the same time. The limiter has several independent pools of permits. In each pool,
/// the keys take turns.
///
/// If no permit is free, the item waits. When a permit becomes free, the limiter calls the next waiting item, which
/// then takes the permit. The limiter keeps no data about pools without permits in use and without waiting items.
pub struct FairLimiter<P, I> {
    pools: Mutex<HashMap<P, Pool<I>>>,
    call: Call<P, I>,
}

/// A permit to do the work of one item. When a `Permit` value is dropped, the permit is free again.
pub struct Permit<P: Clone + Eq + Hash, I: Clone + Eq + Hash> {
    limiter: Arc<FairLimiter<P, I>>,
    pool: P,
    key: String,
}

impl<P: Clone + Eq + Hash, I: Clone + Eq + Hash> FairLimiter<P, I> {
    /// Creates a limiter. The limiter uses `call` to tell an item that a permit is free. The function `call` must
    /// make sure that [`Self::take`] is soon called again for this item.
    pub fn new(call: impl Fn(&P, &str, &I) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            pools: Mutex::default(),
            call: Box::new(call),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<P, Pool<I>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit for the item. If no permit is free, the item waits until the limiter calls it.
    ///
    /// # Errors
    ///
    /// If no permit is free, returns the number of items that wait in this pool.
    pub fn take(self: &Arc<Self>, pool: &P, limits: Limits, key: &str, item: I) -> Result<Permit<P, I>, usize> {
        let now = Instant::now();
        let mut pools = self.lock();
        if !pools.contains_key(pool) {
            // If an item does not use its reservation, its pool becomes idle only when the reservation ends. No other
            // code removes such a pool.
            pools.retain(|_, other| !other.is_idle(now));
        }
        let state = pools.entry(pool.clone()).or_insert_with(|| Pool::new(limits));
        state.take(limits, key, item, now)?;
        Ok(Permit {
            limiter: self.clone(),
            pool: pool.clone(),
            key: key.to_owned(),
        })
    }

    /// Returns true if items wait for a permit of this pool.
    pub fn has_waiting(&self, pool: &P) -> bool {
        self.lock().get(pool).is_some_and(Pool::has_waiting)
    }

    /// Records that the item does not need a permit now. If a permit is reserved for the item, the limiter offers
    /// this permit to the next waiting item.
    pub fn cancel(&self, pool: &P, key: &str, item: &I) {
        if self.leave_pool(pool, key, item) {
            self.call_next(pool);
        }
    }

    fn leave_pool(&self, pool: &P, key: &str, item: &I) -> bool {
        self.lock().get_mut(pool).is_some_and(|pool| pool.cancel(key, item))
    }

    fn release(&self, pool: &P, key: &str) {
        if let Some(pool) = self.lock().get_mut(pool) {
            pool.release(key);
        }
        self.call_next(pool);
    }

    /// Calls one waiting item for each free permit, and skips items that no longer exist.
    fn call_next(&self, pool: &P) {
        while let Some((key, item)) = self.next(pool) {
            if !(self.call)(pool, &key, &item) {
                self.leave_pool(pool, &key, &item);
            }
        }
    }

    fn next(&self, pool: &P) -> Option<(String, I)> {
        let now = Instant::now();
        let mut pools = self.lock();
        let state = pools.get_mut(pool)?;
        let next = state.next(now);
        if state.is_idle(now) {
            pools.remove(pool);
        }
        next
    }

    /// Returns true if no permit is in use and no item waits.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.lock().is_empty()
    }
}

impl<P: Clone + Eq + Hash, I: Clone + Eq + Hash> Drop for Permit<P, I> {
    fn drop(&mut self) {
        self.limiter.release(&self.pool, &self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Called = Arc<Mutex<Vec<String>>>;

    const LIMITS: Limits = Limits {
        total: 1,
        per_key: 1,
        per_key_alone: 1,
        reservation: Duration::from_secs(5),
    };

    /// Returns a limiter, and the list of the items that it has called. Items with the name `gone` do not exist.
    fn limiter() -> (Arc<FairLimiter<u8, &'static str>>, Called) {
        let called = Called::default();
        let log = called.clone();
        let limiter = FairLimiter::new(move |pool, key, item: &&str| {
            log.lock().unwrap().push(format!("{pool}/{key}/{item}"));
            *item != "gone"
        });
        (limiter, called)
    }

    #[test]
    fn dropped_permit_goes_to_the_next_item_that_exists() {
        let (limiter, called) = limiter();
        let first = limiter.take(&0, LIMITS, "a", "1");
        assert!(first.is_ok());
        for (key, item) in [("a", "gone"), ("b", "1"), ("b", "2")] {
            assert!(limiter.take(&0, LIMITS, key, item).is_err());
        }
        drop(first);
        assert_eq!(*called.lock().unwrap(), ["0/a/gone", "0/b/1"]);
        assert!(limiter.take(&0, LIMITS, "c", "1").is_err(), "the permit is reserved");
        drop(limiter.take(&0, LIMITS, "b", "1"));
        assert_eq!(called.lock().unwrap().last().unwrap(), "0/b/2");
    }

    #[test]
    fn permit_that_an_item_gives_up_goes_to_the_next_item() {
        let (limiter, called) = limiter();
        let first = limiter.take(&0, LIMITS, "a", "1");
        for item in ["2", "3"] {
            assert!(limiter.take(&0, LIMITS, "a", item).is_err());
        }
        drop(first);
        limiter.cancel(&0, "a", &"1");
        assert_eq!(*called.lock().unwrap(), ["0/a/2"], "item 1 had no reservation");
        limiter.cancel(&0, "a", &"2");
        assert_eq!(*called.lock().unwrap(), ["0/a/2", "0/a/3"]);
        limiter.cancel(&0, "a", &"3");
        assert!(limiter.is_idle());
    }

    #[test]
    fn pools_are_independent() {
        let (limiter, called) = limiter();
        let (first, second) = (limiter.take(&0, LIMITS, "a", "1"), limiter.take(&1, LIMITS, "a", "1"));
        assert!(first.is_ok() && second.is_ok());
        assert!(limiter.take(&0, LIMITS, "a", "2").is_err());
        drop(second);
        assert!(called.lock().unwrap().is_empty());
        drop(first);
        assert_eq!(*called.lock().unwrap(), ["0/a/2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn pool_is_removed_when_its_work_or_its_reservation_has_ended() {
        let (limiter, _) = limiter();
        for pool in 0..100 {
            drop(limiter.take(&pool, LIMITS, "a", "1"));
        }
        assert!(limiter.is_idle());
        let first = limiter.take(&0, LIMITS, "a", "1");
        assert!(limiter.take(&0, LIMITS, "a", "2").is_err());
        drop(first);
        assert!(!limiter.is_idle(), "the permit is reserved for item 2");
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(limiter.take(&1, LIMITS, "a", "1"));
        assert!(limiter.is_idle(), "the unused reservation of pool 0 has ended");
    }
}
