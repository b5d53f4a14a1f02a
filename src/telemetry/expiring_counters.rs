//! Counters for objects that users can delete. A counter is removed some time after its object was deleted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Valet exports a counter for one more hour after its object was deleted. One hour is longer than a usual scrape
/// interval. One hour is also longer than the time range of every query in Valet's alerts and documents. Prometheus
/// therefore reads every count before Valet removes the counter.
pub const KEPT: Duration = Duration::from_secs(3600);

/// Keeps one counter for each set of labels. Removes a counter some time after its object was deleted.
///
/// The removal is needed because some clusters create a namespace for each preview environment. An operator that runs
/// for months would otherwise export counters of many deleted namespaces.
#[derive(Debug)]
pub struct ExpiringCounters<L>(Mutex<BTreeMap<L, Count>>);

#[derive(Debug)]
struct Count {
    number: u64,
    /// The last time at which the object existed or its counter was incremented.
    seen: Instant,
}

impl<L> Default for ExpiringCounters<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Ord + Clone> ExpiringCounters<L> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<L, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Increments the counter of these labels.
    pub fn count(&self, labels: L, now: Instant) {
        let mut counts = self.lock();
        let count = counts.entry(labels).or_insert(Count { number: 0, seen: now });
        count.number += 1;
        count.seen = now;
    }

    /// Removes each counter whose object has not existed during the time [`KEPT`].
    pub fn forget_gone(&self, is_there: impl Fn(&L) -> bool, now: Instant) {
        self.lock().retain(|labels, count| {
            if is_there(labels) {
                count.seen = now;
            }
            now.saturating_duration_since(count.seen) < KEPT
        });
    }

    /// Returns all counters, sorted by their labels.
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
    fn counter_is_removed_one_hour_after_its_object() {
        let (counts, begin) = (ExpiringCounters::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let (there, gone) = (|_: &&str| true, |_: &&str| false);
        counts.count("web", at(0));
        counts.count("web", at(10));
        // Valet keeps a counter while its object exists, even if nothing increments the counter.
        counts.forget_gone(there, at(9000));
        counts.forget_gone(gone, at(9060));
        counts.forget_gone(gone, at(9000 + 3599));
        assert_eq!(counts.all(), [("web", 2)]);
        counts.forget_gone(gone, at(9000 + 3600));
        assert_eq!(counts.all(), []);
        // Valet has removed the counter, so the next increment returns 1.
        counts.count("web", at(20_000));
        assert_eq!(counts.all(), [("web", 1)]);
    }

    /// A reconcile can still increment the counter while its object is being deleted.
    #[test]
    fn counter_of_a_missing_object_stays_for_one_hour() {
        let (counts, begin) = (ExpiringCounters::default(), Instant::now());
        counts.count("web", begin);
        counts.count("shop", begin + Duration::from_secs(60));
        let gone = |_: &&str| false;
        counts.forget_gone(gone, begin + KEPT);
        assert_eq!(counts.all(), [("shop", 1)]);
    }

    /// In this test, ten thousand preview namespaces exist during one month. Valet must export only counters of
    /// namespaces that existed in the last hour.
    #[test]
    fn only_counters_of_the_last_hour_stay_with_many_namespaces() {
        let (counts, begin) = (ExpiringCounters::default(), Instant::now());
        let mut most = 0;
        for minute in 0..30 * 24 * 60_u64 {
            let now = begin + Duration::from_secs(minute * 60);
            // A new namespace appears every four minutes and exists for half an hour.
            if minute % 4 == 0 {
                counts.count(minute, now);
            }
            counts.forget_gone(|born| minute - born < 30, now);
            most = most.max(counts.all().len());
        }
        assert!((15..=30).contains(&most), "{most}");
    }
}
