//! Limits repeated log lines. If many grants fail for the same reason, Valet logs one line for this reason instead of
//! one line for each grant.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Valet counts the failures of each cause for 30 seconds, and then logs a summary.
const WINDOW: Duration = Duration::from_secs(30);

/// Valet counts at most this number of causes separately. All other causes share one counter.
const MOST_CAUSES: usize = 64;

/// The name of the shared counter. It counts all causes after the first [`MOST_CAUSES`] causes.
const OTHERS: &str = "other causes";

/// The maximum number of causes that one summary names.
const MOST_NAMED: usize = 10;

/// Counts failures by cause. Without these counts, an outage of a store with a thousand grants would cause a thousand
/// log lines.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// The start of the period in which failures are counted. It is `None` while there are no failures.
    began: Option<Instant>,
    causes: BTreeMap<String, Count>,
}

#[derive(Debug)]
struct Count {
    /// The number of failures of this cause that were not logged individually.
    more: u64,
    /// This field is true if the first failure of this cause happened in the current period.
    is_new: bool,
}

/// The failure counts of this process.
pub static REPEATS: LazyLock<Repeats> = LazyLock::new(Repeats::default);

impl Repeats {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure. Returns true if it is the first failure of its cause. Valet logs only this first failure
    /// individually. If a cause has no failures during a whole period, its next failure counts as a first failure
    /// again.
    pub fn is_first(&self, cause: &str, now: Instant) -> bool {
        let mut window = self.lock();
        window.began.get_or_insert(now);
        let causes = &mut window.causes;
        let cause = match causes.len() >= MOST_CAUSES && !causes.contains_key(cause) {
            true => OTHERS,
            false => cause,
        };
        if let Some(count) = causes.get_mut(cause) {
            count.more += 1;
            return false;
        }
        causes.insert(cause.to_owned(), Count { more: 0, is_new: true });
        true
    }

    /// Returns a summary of the failures that were not logged individually, if the period has ended. The method
    /// removes a cause that had no failures during a whole period.
    pub fn take_due(&self, now: Instant) -> Option<String> {
        let mut window = self.lock();
        if now.saturating_duration_since(window.began?) < WINDOW {
            return None;
        }
        let mut due = Vec::new();
        window.causes.retain(|cause, count| {
            let was_idle = count.more == 0 && !count.is_new;
            if count.more > 0 {
                due.push((count.more, cause.clone()));
            }
            *count = Count { more: 0, is_new: false };
            !was_idle
        });
        window.began = (!window.causes.is_empty()).then_some(now);
        let all: u64 = due.iter().map(|(number, _)| number).sum();
        due.sort_by(|a, b| b.cmp(a));
        let left = due.len().saturating_sub(MOST_NAMED);
        due.truncate(MOST_NAMED);
        let mut named: Vec<_> = due
            .iter()
            .map(|(number, cause)| format!("{cause} ({number})"))
            .collect();
        if left > 0 {
            named.push(format!("{left} other causes"));
        }
        let seconds = WINDOW.as_secs();
        let causes = named.join("; ");
        (all > 0).then(|| format!("{all} more failures within {seconds} s: {causes}"))
    }
}

/// Logs a failure at level WARN if it is the first failure of its cause (see `Repeats::is_first`). Valet counts
/// further failures of this cause, and logs a summary of them at the end of each period.
///
/// The first argument is the cause. The macro passes the remaining arguments to [`tracing::warn!`].
macro_rules! warn_once {
    ($cause:expr, $($line:tt)+) => {
        if $crate::telemetry::REPEATS.is_first($cause, std::time::Instant::now()) {
            tracing::warn!($($line)+)
        }
    };
}
pub(crate) use warn_once;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_of_500_grants_logs_one_line_per_cause_and_per_window() {
        let (repeats, begin) = (Repeats::default(), Instant::now());
        let mut lines = 0;
        // The test simulates two minutes. Each grant fails every two seconds. There are three causes of failures.
        for second in 0..120 {
            let now = begin + Duration::from_secs(second);
            for grant in 0..500 {
                if (grant + second) % 2 == 0 {
                    let cause =
                        ["reading a Secret: refused", "reading a store: refused", "timeout"][grant as usize % 3];
                    lines += u64::from(repeats.is_first(cause, now));
                }
            }
            lines += u64::from(repeats.take_due(now).is_some());
        }
        assert_eq!(lines, 3 + 3);
    }

    #[test]
    fn no_failure_is_lost_and_the_next_outage_is_logged_at_once() {
        let (repeats, begin) = (Repeats::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let due = |seconds| repeats.take_due(at(seconds));
        assert_eq!(due(0), None);
        assert!(repeats.is_first("a", at(0)));
        assert!(!repeats.is_first("a", at(1)));
        assert!(!repeats.is_first("a", at(29)));
        assert!(repeats.is_first("b", at(29)));
        assert_eq!(due(29), None);
        assert_eq!(due(30).unwrap(), "2 more failures within 30 s: a (2)");
        assert!(!repeats.is_first("b", at(31)), "the cause was already logged 2 s ago");
        assert!(!repeats.is_first("a", at(32)));
        assert!(!repeats.is_first("a", at(33)));
        assert_eq!(due(60).unwrap(), "3 more failures within 30 s: a (2); b (1)");
        assert_eq!(due(90), None);
        assert!(repeats.is_first("a", at(91)));
        assert_eq!(due(120), None);
        assert_eq!(due(150), None);
        assert_eq!(due(180), None);
        assert!(repeats.is_first("a", at(200)));
        assert_eq!(due(229), None, "a period begins with a failure");
    }

    #[test]
    fn number_of_logged_causes_is_limited() {
        let (repeats, begin) = (Repeats::default(), Instant::now());
        let fail = |n: usize| repeats.is_first(&format!("cause {n}"), begin);
        assert_eq!((0..10_000).filter(|n| fail(*n)).count(), MOST_CAUSES + 1);
        let line = repeats.take_due(begin + WINDOW).unwrap();
        let others = 10_000 - MOST_CAUSES - 1;
        assert_eq!(
            line,
            format!("{others} more failures within 30 s: other causes ({others})")
        );
        for n in 0..20 {
            fail(n);
        }
        let line = repeats.take_due(begin + 2 * WINDOW).unwrap();
        assert!(
            line.starts_with("20 more failures within 30 s: cause 9 (1); "),
            "{line}"
        );
        assert!(line.ends_with("; 10 other causes"), "{line}");
    }
}
