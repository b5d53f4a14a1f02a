//! A Secret that somebody else deletes or changes again and again: it is restored each time, after growing pauses.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    lifetime::{Lifetime, add},
    step::Step,
};
use crate::api::Reason;

/// The pause before the second restoration, and the longest one.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// After this long without a restoration the earlier ones are forgotten.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// So many restorations without [`QUIET`] between them are reported: one deletion by hand is no contest.
const CONTEST: u32 = 3;

/// What this process knows of restorations of a grant's Secret. It is lost with the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Whether this process left or saw the Secret as issued: what is different later was somebody else's doing.
    pub is_expected: bool,
    /// How many there were since `first`.
    count: u32,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Repairs {
    /// The Secret was restored.
    pub fn restored(&mut self, now: Timestamp) {
        if self.is_forgotten(now) {
            (self.count, self.first) = (0, Some(now));
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        // A restoration that is still to come was before the clock was set back.
        self.last.is_none_or(|last| last > now || add(last, QUIET) <= now)
    }

    /// When the Secret may be restored next; `None`: at once.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last.filter(|_| !self.is_forgotten(now))?;
        let doublings = self.count.saturating_sub(1).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        Some(add(last, pause)).filter(|due| *due > now)
    }

    /// When the contest will be forgotten, if there is one.
    pub fn contested_until(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last.filter(|_| !self.is_forgotten(now) && self.count >= CONTEST)?;
        Some(add(last, QUIET))
    }
}

impl Judge<'_> {
    /// Whether a credential that is about to be published takes the place of the same one, which somebody else has deleted or
    /// changed.
    pub(super) fn is_repair(&self, live: Option<Lifetime>, next: Lifetime) -> bool {
        let is_same = live.is_some_and(|live| live.issued_at == next.issued_at);
        is_same && self.f.repairs.is_expected && self.own_secret().is_none()
    }

    /// The Secret has to wait for its restoration.
    pub(super) fn await_repair(&self, due: Timestamp) -> Step {
        let message = format!(
            "Secret {} is not as it was issued; since somebody keeps deleting or changing it, it is restored at {due}",
            self.g.secret_name()
        );
        self.situation_until(Reason::SecretContested, message, Some(due))
    }

    /// What a person must know of a Secret that somebody keeps deleting or changing.
    pub(super) fn contested(&self) -> Option<String> {
        let repairs = &self.f.repairs;
        repairs.contested_until(self.now)?;
        let (first, last) = repairs.first.zip(repairs.last)?;
        Some(format!(
            "Secret {} was deleted or changed by somebody else and restored {} times since {first}, last at {last}, with growing pauses; find out who writes it (kubectl get secret {} -n {} --show-managed-fields -o jsonpath='{{.metadata.managedFields[*].manager}}', or the audit log) and keep it from that",
            self.g.secret_name(),
            repairs.count,
            self.g.secret_name(),
            self.g.namespace,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn pauses_double_from_a_second_to_five_minutes() {
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
    fn ten_quiet_minutes_are_forgotten() {
        let mut repairs = Repairs::default();
        for second in 0..3 {
            repairs.restored(at(second));
        }
        assert_eq!(repairs.contested_until(at(2)), Some(at(602)));
        assert_eq!(repairs.due(at(5)), Some(at(6)));
        assert_eq!(repairs.due(at(6)), None, "it is time");
        assert_eq!(repairs.contested_until(at(601)), Some(at(602)));
        assert_eq!((repairs.contested_until(at(602)), repairs.due(at(602))), (None, None));
        repairs.restored(at(602));
        assert_eq!(repairs.due(at(602)), Some(at(603)), "the first one again");
        // A clock that was set back keeps nobody waiting.
        assert_eq!(repairs.due(at(-1000)), None);
    }

    #[test]
    fn two_deletions_by_hand_are_no_contest() {
        let mut repairs = Repairs::default();
        for (second, contested) in [(0, false), (10, false), (20, true)] {
            repairs.restored(at(second));
            assert_eq!(repairs.contested_until(at(second)).is_some(), contested);
        }
    }
}
