//! Counters about things that come and go.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For so long a counter is told after what it counts for is gone: longer than any scrape takes to come, and than any query of
/// it in the alerts and docs looks back, so that nothing is lost with it.
pub const KEPT: Duration = Duration::from_secs(3600);

/// A counter for each label set, until what that speaks of is gone: where each preview environment is a namespace of its own,
/// a process that lives for months would otherwise tell of every one that there ever was.
#[derive(Debug)]
pub struct Passing<L>(Mutex<BTreeMap<L, Count>>);

#[derive(Debug)]
struct Count {
    number: u64,
    /// When what it counts for was last seen, or counted.
    seen: Instant,
}

impl<L> Default for Passing<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Ord + Clone> Passing<L> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<L, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn count(&self, labels: L, now: Instant) {
        let mut counts = self.lock();
        let count = counts.entry(labels).or_insert(Count { number: 0, seen: now });
        count.number += 1;
        count.seen = now;
    }

    /// Forgets the counters of what has been gone for [`KEPT`].
    pub fn forget_gone(&self, is_there: impl Fn(&L) -> bool, now: Instant) {
        self.lock().retain(|labels, count| {
            if is_there(labels) {
                count.seen = now;
            }
            now.saturating_duration_since(count.seen) < KEPT
        });
    }

    /// Every counter, in the order of its labels.
    pub fn all(&self) -> Vec<(L, u64)> {
        let counts = self.lock();
        counts
            .iter()
            .map(|(labels, count)| (labels.clone(), count.number))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_outlives_what_it_counts_for_by_an_hour() {
        let (counts, begin) = (Passing::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let (there, gone) = (|_: &&str| true, |_: &&str| false);
        counts.count("web", at(0));
        counts.count("web", at(10));
        // While it is there, however long nothing is counted.
        counts.forget_gone(there, at(9000));
        counts.forget_gone(gone, at(9060));
        counts.forget_gone(gone, at(9000 + 3599));
        assert_eq!(counts.all(), [("web", 2)]);
        counts.forget_gone(gone, at(9000 + 3600));
        assert_eq!(counts.all(), []);
        // It begins anew.
        counts.count("web", at(20_000));
        assert_eq!(counts.all(), [("web", 1)]);
    }

    /// The last word on something can come after it: a visit that was under way.
    #[test]
    fn what_is_counted_is_told_for_an_hour_whether_it_is_there_or_not() {
        let (counts, begin) = (Passing::default(), Instant::now());
        counts.count("web", begin);
        counts.count("shop", begin + Duration::from_secs(60));
        let gone = |_: &&str| false;
        counts.forget_gone(gone, begin + KEPT);
        assert_eq!(counts.all(), [("shop", 1)]);
    }

    /// Of ten thousand preview namespaces a month those of the last hour are told.
    #[test]
    fn a_month_of_preview_environments() {
        let (counts, begin) = (Passing::default(), Instant::now());
        let mut most = 0;
        for minute in 0..30 * 24 * 60_u64 {
            let now = begin + Duration::from_secs(minute * 60);
            // A new one every four minutes, each of them there for half an hour.
            if minute % 4 == 0 {
                counts.count(minute, now);
            }
            counts.forget_gone(|born| minute - born < 30, now);
            most = most.max(counts.all().len());
        }
        assert!((15..=30).contains(&most), "{most}");
    }
}
