//! How far a store's clock is from the operator's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

/// What the store's clock showed last, by the `Date` of its answers.
#[derive(Clone, Debug, Default)]
pub struct StoreClock(Arc<Mutex<Option<Reading>>>);

/// One look at the store's clock. It is remembered by a clock that nobody sets, so that a step of the operator's own shows
/// before the next answer.
#[derive(Clone, Copy, Debug)]
struct Reading {
    when: Instant,
    theirs: Timestamp,
}

impl StoreClock {
    /// An answer that came now says this time.
    pub fn saw(&self, theirs: Timestamp) {
        let reading = Reading {
            when: Instant::now(),
            theirs,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// How far the store's clock is ahead of the operator's; `None` if the store never said the time.
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
        // Whatever a store says.
        for extreme in [Timestamp::MIN, Timestamp::MAX] {
            clock.saw(extreme);
            clock.skew();
        }
    }
}
