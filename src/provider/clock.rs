//! Measures the clock skew between a store and the operator.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

use super::lock::lock;
use crate::core::{is_skewed, skewed};

/// The time of the store in its last answer with a `Date` header.
#[derive(Clone, Debug, Default)]
pub struct StoreClock(Arc<Mutex<Option<Reading>>>);

/// The time on the store's clock, and the value of the operator's monotonic clock at the same moment. From these two
/// values, Valet can compute the store's current time without a new request. After a change of the operator's clock,
/// the computed clock skew is therefore correct at once.
#[derive(Clone, Copy, Debug)]
struct Reading {
    when: Instant,
    store_time: Timestamp,
}

impl StoreClock {
    /// Records the store's time from an answer that has just arrived.
    pub fn observe(&self, store_time: Timestamp) {
        let reading = Reading {
            when: Instant::now(),
            store_time,
        };
        *lock(&self.0) = Some(reading);
    }

    /// Returns how far the store's clock is ahead of the operator's clock. Returns `None` if no answer of the store
    /// has contained a time.
    pub fn skew(&self) -> Option<SignedDuration> {
        let reading = (*lock(&self.0))?;
        let since = SignedDuration::try_from(reading.when.elapsed()).ok()?;
        let store_time = reading.store_time.checked_add(since).ok()?;
        Some(store_time.duration_since(Timestamp::now()))
    }

    /// Returns a message if the clock skew is so large that the store could refuse requests. Otherwise it returns
    /// `None`.
    pub fn problem(&self) -> Option<String> {
        self.skew().filter(|skew| is_skewed(Some(*skew))).map(skewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_skew_of_a_store_comes_from_its_last_answer() {
        let clock = StoreClock::default();
        assert_eq!(clock.skew(), None);
        for ahead in [-1200, -45, 0, 300] {
            clock.observe(Timestamp::now() + SignedDuration::from_secs(ahead));
            let skew = clock.skew().unwrap().as_secs();
            assert!((skew - ahead).abs() <= 1, "{ahead}: {skew}");
        }
        // The `Date` header of a store can contain an extreme time, which must not cause a panic.
        for extreme in [Timestamp::MIN, Timestamp::MAX] {
            clock.observe(extreme);
            clock.skew();
        }
    }
}
