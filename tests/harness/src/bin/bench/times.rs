//! Points in time, and durations in short.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// RFC 3339 for seconds since 1970, by the rule of days in eras of 400 years.
pub fn rfc3339(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their leap day at their end.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Seconds since 1970, with their fraction.
pub fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns at that moment, or at once if it has passed.
pub fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Some durations in short, in ms. A percentile is the value that so many of a hundred do not exceed.
pub struct Times {
    /// The median.
    pub p50: f64,
    /// What one of a hundred exceeds.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Times {
    /// Of at least one.
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
    fn dates_follow_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<_> = (1..=300).rev().map(Duration::from_millis).collect();
        let times = Times::of(&times);
        assert_eq!((times.p50, times.p99, times.max), (150.0, 297.0, 300.0));
        let one = Times::of(&[Duration::from_millis(7)]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    }
}
