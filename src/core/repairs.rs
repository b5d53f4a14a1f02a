//! Counts how often Valet restores a grant Secret that a client other than Valet deletes or changes. If a client does
//! this repeatedly, Valet waits longer before each restoration.

use jiff::{SignedDuration, Timestamp};

use super::lifetime::add;

/// `FIRST_PAUSE` is the minimum pause after Valet restored a Secret for the first time. Each further pause is twice as
/// long as the previous pause, but at most `LONGEST_PAUSE`.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// If a grant Secret needs no restoration for 10 minutes, Valet forgets the earlier restorations of this Secret.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// Valet reports restorations of a grant Secret in the grant's status only after this number of restorations. A
/// single manual deletion of a Secret is therefore not reported.
const CONTESTED_PERIOD: u32 = 3;

/// Counts the restorations of a grant's Secret by this process. The count is lost when the process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// True if this process has written the correct grant Secret or has seen it. If the Secret is different later,
    /// another client has changed the Secret.
    pub is_expected: bool,
    /// The number of restorations since the time `first`.
    count: u32,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Repairs {
    /// Records a restoration of the Secret.
    pub fn restored(&mut self, now: Timestamp) {
        if self.is_forgotten(now) {
            (self.count, self.first) = (0, Some(now));
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        // If the time of the last restoration is in the future, somebody has set the operator's clock back. Valet
        // then ignores earlier restorations.
        self.last.is_none_or(|last| last > now || add(last, QUIET) <= now)
    }

    /// Returns the time from which Valet is allowed to restore the Secret again. `None` means that Valet is allowed
    /// to restore the Secret now.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last.filter(|_| !self.is_forgotten(now))?;
        let doublings = self.count.saturating_sub(1).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        Some(add(last, pause)).filter(|due| *due > now)
    }

    /// Returns the time at which the status stops reporting that other clients repeatedly change the Secret. Returns
    /// `None` if the status does not report this at the time `now`, because Valet has restored the Secret too few times.
    pub fn contested_until(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self
            .last
            .filter(|_| !self.is_forgotten(now) && self.count >= CONTESTED_PERIOD)?;
        Some(add(last, QUIET))
    }

    /// Returns the number of restorations, and the times of the first and the last restoration. Returns `None` if there
    /// are too few restorations at the time `now` to report them in the status.
    pub(super) fn contested_restores(&self, now: Timestamp) -> Option<(u32, Timestamp, Timestamp)> {
        self.contested_until(now)?;
        let (first, last) = self.first.zip(self.last)?;
        Some((self.count, first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn restore_pause_doubles_from_one_second_to_five_minutes() {
        let (mut repairs, mut now) = (Repairs::default(), at(0));
        let mut pauses = vec![];
        for _ in 0..12 {
            now = repairs.due(now).unwrap_or(now);
            repairs.restored(now);
            pauses.push(repairs.due(now).unwrap().as_second() - now.as_second());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn restores_are_forgotten_after_ten_quiet_minutes() {
        let mut repairs = Repairs::default();
        for second in 0..3 {
            repairs.restored(at(second));
        }
        assert_eq!(repairs.contested_until(at(2)), Some(at(602)));
        assert_eq!(repairs.due(at(5)), Some(at(6)));
        assert_eq!(repairs.due(at(6)), None, "the pause has passed");
        assert_eq!(repairs.contested_until(at(601)), Some(at(602)));
        assert_eq!((repairs.contested_until(at(602)), repairs.due(at(602))), (None, None));
        repairs.restored(at(602));
        assert_eq!(repairs.due(at(602)), Some(at(603)), "the first pause again");
        // If the clock was set back, Valet restores the Secret without a delay.
        assert_eq!(repairs.due(at(-1000)), None);
    }

    #[test]
    fn secret_is_contested_only_after_the_third_restore() {
        let mut repairs = Repairs::default();
        for (second, contested) in [(0, false), (10, false), (20, true)] {
            repairs.restored(at(second));
            assert_eq!(repairs.contested_until(at(second)).is_some(), contested);
        }
    }
}
