use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

use super::queue::FairQueue;

/// The limits of one pool of permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of permits for all keys together.
    pub total: usize,
    /// The maximum number of permits for one key.
    pub per_key: usize,
    /// The maximum number of permits for one key while no other key uses a permit or waits for one. When another key
    /// comes, the limit `per_key` applies again. The permits above it are not taken away. They become free when their
    /// work ends.
    pub per_key_alone: usize,
    /// The time for which the limiter reserves a free permit for the waiting item that it calls. During this time, no
    /// other item can take the permit.
    pub reservation: Duration,
}

/// The permits of one pool, and the items that wait for a permit. This type contains no clock and no lock, because
/// the limiter provides both.
#[derive(Debug)]
pub(super) struct Pool<I> {
    limits: Limits,
    /// The number of used permits of each key. A key without used permits has no entry.
    used: HashMap<String, usize>,
    /// The key and item of each reservation, with the end of the reservation.
    reserved: HashMap<(String, I), Instant>,
    waiting: FairQueue<I>,
}

impl<I: Clone + Eq + Hash> Pool<I> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: HashMap::new(),
            reserved: HashMap::new(),
            waiting: FairQueue::default(),
        }
    }

    /// Takes a permit for the item if a permit is free. Otherwise the item waits. The given limits apply from this
    /// call on.
    ///
    /// # Errors
    ///
    /// Returns the number of waiting items if no permit is free.
    pub(super) fn take(&mut self, limits: Limits, key: &str, item: I, now: Instant) -> Result<(), usize> {
        self.limits = limits;
        self.end_reservations(now);
        self.cancel(key, &item);
        let is_alone = !self.waiting.has_other_key(key);
        if !self.is_full() && has_free_permit(&self.limits, &self.used, &self.reserved, key, is_alone) {
            self.waiting.remove(key, &item);
            *self.used.entry(key.to_owned()).or_default() += 1;
            return Ok(());
        }
        self.waiting.push(key, item);
        Err(self.waiting.len())
    }

    /// Returns a permit of this key.
    pub(super) fn release(&mut self, key: &str) {
        if let Some(used) = self.used.get_mut(key) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.used.remove(key);
            }
        }
    }

    /// If a permit is free, removes and returns the next waiting item, and reserves the permit for this item. The keys
    /// take turns, and a key that has reached the limit for one key has no turn. The next item is the oldest item of
    /// the key that has the next turn.
    pub(super) fn next(&mut self, now: Instant) -> Option<(String, I)> {
        self.end_reservations(now);
        if self.is_full() {
            return None;
        }
        let Self {
            limits,
            used,
            reserved,
            waiting,
        } = self;
        let is_alone = waiting.count_keys() <= 1;
        let next = waiting.pop(|key| has_free_permit(limits, used, reserved, key, is_alone))?;
        reserved.insert(next.clone(), now + limits.reservation);
        Some(next)
    }

    /// Ends the reservation of this item. Returns true if the item had a reservation.
    pub(super) fn cancel(&mut self, key: &str, item: &I) -> bool {
        self.reserved.remove(&(key.to_owned(), item.clone())).is_some()
    }

    /// Returns true if the pool has no used permit, no reservation and no waiting item.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.end_reservations(now);
        self.used.is_empty() && self.reserved.is_empty() && self.waiting.is_empty()
    }

    /// Returns true if items wait for a permit.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn end_reservations(&mut self, now: Instant) {
        self.reserved.retain(|_, end| *end > now);
    }

    fn is_full(&self) -> bool {
        self.used.values().sum::<usize>() + self.reserved.len() >= self.limits.total
    }
}

/// Returns true if the limit of this key allows one more permit. `is_alone` is true if no other key waits for a permit.
fn has_free_permit<I>(
    limits: &Limits,
    used: &HashMap<String, usize>,
    reserved: &HashMap<(String, I), Instant>,
    key: &str,
    is_alone: bool,
) -> bool {
    let is_alone =
        is_alone && used.keys().all(|other| other == key) && reserved.keys().all(|(other, _)| other == key);
    let limit = if is_alone { limits.per_key_alone } else { limits.per_key };
    permits_in_use(used, reserved, key) < limit
}

/// Returns the number of permits that this key uses or has reserved.
fn permits_in_use<I>(used: &HashMap<String, usize>, reserved: &HashMap<(String, I), Instant>, key: &str) -> usize {
    let reserved = reserved.keys().filter(|(other, _)| other == key).count();
    used.get(key).copied().unwrap_or_default() + reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(total: usize, per_key: usize) -> Limits {
        Limits {
            total,
            per_key,
            per_key_alone: per_key,
            reservation: Duration::ZERO,
        }
    }

    fn next(key: &str, item: u32) -> Option<(String, u32)> {
        Some((key.to_owned(), item))
    }

    #[test]
    fn key_over_its_limit_waits_and_other_keys_do_not() {
        let (now, limits) = (Instant::now(), limits(4, 2));
        let mut pool = Pool::new(limits);
        let results = [1, 2, 3, 4].map(|item| pool.take(limits, "a", item, now));
        assert_eq!(results, [Ok(()), Ok(()), Err(1), Err(2)]);
        assert_eq!(pool.take(limits, "b", 1, now), Ok(()));
        assert_eq!(pool.next(now), None, "the only waiting key has reached its limit");
        pool.release("b");
        assert_eq!(pool.next(now), None);
        pool.release("a");
        assert_eq!(pool.next(now), next("a", 3));
    }

    #[test]
    fn key_without_competitors_gets_more_permits() {
        let limits = Limits {
            per_key_alone: 3,
            ..limits(4, 1)
        };
        let (now, mut pool) = (Instant::now(), Pool::new(limits));
        let results = [1, 2, 3, 4].map(|item| pool.take(limits, "a", item, now));
        assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(1)]);
        assert_eq!(
            pool.take(limits, "b", 1, now),
            Ok(()),
            "a second user of the pool must still get a permit"
        );
        assert_eq!(pool.take(limits, "b", 2, now), Err(2));
        for _ in 0..2 {
            pool.release("a");
            assert_eq!(pool.next(now), None, "both keys have reached the limit for one key");
        }
        pool.release("a");
        assert_eq!(pool.next(now), next("a", 4));
        pool.release("b");
        assert_eq!(pool.next(now), next("b", 2));
    }

    #[test]
    fn waiting_key_ends_the_higher_limit_of_another_key() {
        let limits = Limits {
            per_key_alone: 2,
            ..limits(2, 1)
        };
        let (now, mut pool) = (Instant::now(), Pool::new(limits));
        for item in [1, 2] {
            assert_eq!(pool.take(limits, "a", item, now), Ok(()));
        }
        assert_eq!(pool.take(limits, "b", 1, now), Err(1));
        pool.release("a");
        assert_eq!(
            pool.take(limits, "a", 3, now),
            Err(2),
            "key b waits, so key a must not get a second permit"
        );
        assert_eq!(pool.next(now), next("b", 1));
    }

    #[test]
    fn full_pool_calls_nobody() {
        let (now, limits) = (Instant::now(), limits(2, 2));
        let mut pool = Pool::new(limits);
        assert_eq!(pool.take(limits, "a", 1, now), Ok(()));
        assert_eq!(pool.take(limits, "b", 1, now), Ok(()));
        assert_eq!(pool.take(limits, "c", 1, now), Err(1));
        assert_eq!(pool.next(now), None);
        pool.release("a");
        assert_eq!(pool.next(now), next("c", 1));
    }

    #[test]
    fn waiting_item_that_takes_a_permit_leaves_the_queue() {
        let (now, limits) = (Instant::now(), limits(1, 1));
        let mut pool = Pool::new(limits);
        assert_eq!(pool.take(limits, "a", 1, now), Ok(()));
        assert_eq!(pool.take(limits, "a", 2, now), Err(1));
        assert_eq!(pool.take(limits, "a", 2, now), Err(1), "the item must not wait twice");
        pool.release("a");
        assert_eq!(pool.take(limits, "a", 2, now), Ok(()));
        pool.release("a");
        assert_eq!(pool.next(now), None);
        assert!(pool.is_idle(now));
    }

    #[test]
    fn reserved_permit_is_kept_for_its_item_until_the_reservation_ends() {
        let limits = Limits {
            reservation: 5 * SECOND,
            ..limits(1, 1)
        };
        let (now, mut pool) = (Instant::now(), Pool::new(limits));
        for (item, result) in [(1, Ok(())), (2, Err(1)), (3, Err(2))] {
            assert_eq!(pool.take(limits, "a", item, now), result);
        }
        pool.release("a");
        assert_eq!(pool.next(now), next("a", 2));
        assert_eq!(pool.next(now), None, "the only permit is reserved");
        assert_eq!(pool.take(limits, "b", 1, now + 4 * SECOND), Err(2));
        assert_eq!(pool.take(limits, "a", 2, now + 4 * SECOND), Ok(()));

        pool.release("a");
        assert_eq!(pool.next(now), next("a", 3));
        assert_eq!(
            pool.take(limits, "c", 1, now + 5 * SECOND),
            Ok(()),
            "another item must get the permit after the reservation has ended"
        );
    }

    #[test]
    fn reservation_counts_for_the_limit_of_its_key() {
        let limits = Limits {
            reservation: 5 * SECOND,
            ..limits(2, 1)
        };
        let (now, mut pool) = (Instant::now(), Pool::new(limits));
        for (key, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 1)] {
            let _ = pool.take(limits, key, item, now);
        }
        pool.release("a");
        pool.release("b");
        assert_eq!(pool.next(now), next("a", 2));
        assert_eq!(
            pool.next(now),
            None,
            "no item of key a can be next, because the reservation uses the only permit of this key"
        );
        assert!(pool.cancel("a", &2) && !pool.cancel("a", &2));
        assert_eq!(pool.next(now), next("a", 3));
    }

    #[test]
    fn new_limits_apply_at_once() {
        let (now, mut pool) = (Instant::now(), Pool::new(limits(3, 3)));
        for item in [1, 2, 3] {
            assert_eq!(pool.take(limits(3, 3), "a", item, now), Ok(()));
        }
        assert_eq!(pool.take(limits(1, 1), "a", 4, now), Err(1));
        pool.release("a");
        pool.release("a");
        assert_eq!(
            pool.next(now),
            None,
            "no item can be next, because one permit is in use and the new limit is 1"
        );
        assert_eq!(pool.take(limits(2, 2), "a", 5, now), Ok(()));
    }

    /// Runs many operations in an order that looks random. Each item must get a permit, no limit may be exceeded, and
    /// the pool must be empty at the end.
    #[test]
    fn every_item_gets_a_permit_and_the_pool_keeps_no_data() {
        for reservation in [Duration::ZERO, 5 * SECOND] {
            let limits = Limits {
                reservation,
                ..limits(5, 2)
            };
            let (now, mut pool) = (Instant::now(), Pool::new(limits));
            let mut running: Vec<(String, u32)> = Vec::new();
            let (mut served, mut seed) = (0, 1_u32);
            let mut take = |pool: &mut Pool<u32>, running: &mut Vec<(String, u32)>, key: &str, item| {
                if pool.take(limits, key, item, now).is_ok() {
                    running.push((key.to_owned(), item));
                    served += 1;
                }
                assert!(running.len() <= 5);
                assert!(running.iter().filter(|(other, _)| other == key).count() <= 2);
            };
            for item in 0..500 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let key = ["a", "a", "a", "b", "c", "d", "e"][(seed >> 16) as usize % 7];
                take(&mut pool, &mut running, key, item);
                if seed >> 30 == 0 && !running.is_empty() {
                    let (key, _) = running.remove((seed >> 8) as usize % running.len());
                    pool.release(&key);
                    if let Some((key, item)) = pool.next(now) {
                        take(&mut pool, &mut running, &key, item);
                    }
                }
            }
            while !running.is_empty() {
                let (key, _) = running.remove(0);
                pool.release(&key);
                while let Some((key, item)) = pool.next(now) {
                    take(&mut pool, &mut running, &key, item);
                }
            }
            assert_eq!(served, 500);
            assert!(pool.is_idle(now));
        }
    }
}
