//! The clock skew between a store and the operator.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

/// The last time that the store's clock showed, from the `Date` headers of its answers.
#[derive(Clone, Debug, Default)]
pub struct StoreClock(Arc<Mutex<Option<Reading>>>);

/// One reading of the store's clock. It is stored relative to a monotonic clock, so a change of the operator's clock
/// is visible before the next answer.
#[derive(Clone, Copy, Debug)]
struct Reading {
    when: Instant,
    theirs: Timestamp,
}

impl StoreClock {
    /// Records the time of an answer that has just arrived.
    pub fn saw(&self, theirs: Timestamp) {
        let reading = Reading {
            when: Instant::now(),
            theirs,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// How far the store's clock is ahead of the operator's. `None` if no answer contained a time.
    pub fn skew(&self) -> Option<SignedDuration> {
        let reading = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = SignedDuration::try_from(reading.when.elapsed()).ok()?;
        let theirs = reading.theirs.checked_add(since).ok()?;
        Some(theirs.duration_since(Timestamp::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_of_a_store_is_what_its_last_answer_said() {
        let clock = StoreClock::default();
        assert_eq!(clock.skew(), None);
        for ahead in [-1200, -45, 0, 300] {
            clock.saw(Timestamp::now() + SignedDuration::from_secs(ahead));
            let skew = clock.skew().unwrap().as_secs();
            assert!((skew - ahead).abs() <= 1, "{ahead}: {skew}");
        }
        // Extreme times from a store must not cause a panic.
        for extreme in [Timestamp::MIN, Timestamp::MAX] {
            clock.saw(extreme);
            clock.skew();
        }
    }
}
