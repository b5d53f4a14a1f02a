//! Points in time, and statistics of durations.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970, with a fraction.
pub fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Sleeps until the given time. Returns at once if the time has passed.
pub fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Statistics of durations in ms. A percentile is the value that the given percentage of the durations does not
/// exceed.
pub struct Times {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest duration.
    pub max: f64,
}

impl Times {
    /// Computes the statistics of at least one duration.
    pub fn of(times: &[Duration]) -> Self {
        let mut times: Vec<_> = times.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<_> = (1..=300).rev().map(Duration::from_millis).collect();
        let times = Times::of(&times);
        assert_eq!((times.p50, times.p99, times.max), (150.0, 297.0, 300.0));
        let one = Times::of(&[Duration::from_millis(7)]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    }
}
