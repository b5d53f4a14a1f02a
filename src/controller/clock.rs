//! Detects steps of the wall clock. Timers measure elapsed time, but credentials expire according to the wall clock.
//! If somebody sets the wall clock forward, or if the machine sleeps, timers fire too late. After a step of the wall
//! clock, Valet therefore reconciles every grant.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tracing::warn;

/// The pause between two comparisons of the wall clock with the monotonic clock.
const PERIOD: Duration = Duration::from_secs(5);

/// Valet ignores steps of the wall clock that are smaller than one second. Smaller differences between the wall clock
/// and the monotonic clock have harmless causes. For example, a time service corrects the wall clock slowly.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// Detects that somebody set the wall clock.
pub struct StepDetector {
    wall: Timestamp,
    passed: Instant,
}

impl StepDetector {
    /// Starts with the current readings of the wall clock and the monotonic clock.
    pub fn new(wall: Timestamp, passed: Instant) -> Self {
        Self { wall, passed }
    }

    /// Returns by how much the wall clock has stepped forward or back since the last call. Returns `None` if the wall
    /// clock has not stepped.
    pub fn step(&mut self, wall: Timestamp, passed: Instant) -> Option<SignedDuration> {
        let by_wall = wall.duration_since(self.wall);
        let elapsed = passed.saturating_duration_since(self.passed);
        let elapsed = SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::MAX);
        (self.wall, self.passed) = (wall, passed);
        let step = by_wall.checked_sub(elapsed)?;
        (step.abs() > TOLERANCE).then_some(step)
    }
}

/// Calls `stepped` after each step of the wall clock. This function never returns.
pub async fn watch_clock(stepped: impl Fn()) {
    let mut detector = StepDetector::new(Timestamp::now(), Instant::now());
    loop {
        sleep(PERIOD).await;
        if let Some(step) = detector.step(Timestamp::now(), Instant::now()) {
            warn!(
                seconds = step.as_secs_f64(),
                "the system clock was changed; Valet reconciles every grant again"
            );
            stepped();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_step_is_reported_once_and_elapsed_time_is_no_step() {
        let (wall, passed) = (Timestamp::from_second(1_700_000_000).unwrap(), Instant::now());
        let mut detector = StepDetector::new(wall, passed);
        let mut at = |wall_millis: i64, passed_millis: u64| {
            detector
                .step(
                    wall + SignedDuration::from_millis(wall_millis),
                    passed + Duration::from_millis(passed_millis),
                )
                .map(|step| step.as_millis())
        };
        assert_eq!(at(5000, 5000), None);
        assert_eq!(
            at(11_000, 10_000),
            None,
            "a clock difference of one second must be ignored"
        );
        assert_eq!(
            at(46_001, 15_000),
            Some(30_001),
            "the operator must report a clock that was set forward"
        );
        assert_eq!(
            at(51_001, 20_000),
            None,
            "the operator must not report the same clock change twice"
        );
        assert_eq!(
            at(6001, 25_000),
            Some(-50_000),
            "a clock that was set back must be reported"
        );
        // The machine slept, so the monotonic clock stood still.
        assert_eq!(at(3_606_001, 25_000), Some(3_600_000));
    }
}
