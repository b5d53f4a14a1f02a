//! What follows from a store's clock that differs from the operator's. A signature's times are read by the store's clock: a URL
//! can be dead when it is issued, or outlive what the grant says.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    facts::{StoreFact, StoreView},
    lifetime::{Lifetime, add},
};
use crate::api::Reason;

/// The largest difference at which nothing is said: half of what the shortest sensible URLs live.
pub const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(30);
/// From this difference on nothing is signed.
pub const MOST_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// A URL is signed if the difference is at most this part of its lifetime.
const PART_OF_LIFETIME: i64 = 10;

/// Whether the clocks differ so much that nothing is concluded about the store.
pub fn is_skewed(skew: Option<SignedDuration>) -> bool {
    skew.is_some_and(|skew| skew.abs() >= TOLERATED_SKEW)
}

/// By how much the clocks differ, as a clause. In steps, so that a clock that drifts is not a new message each minute.
pub fn skewed(skew: SignedDuration) -> String {
    let seconds = skew.as_secs().saturating_abs().saturating_add(5) / 10 * 10;
    let way = if skew.is_negative() { "behind" } else { "ahead of" };
    format!("the store's clock is about {seconds} s {way} the operator's; set the clocks right (NTP)")
}

/// Whether a URL of this lifetime would be good for a time that differs too much from what the grant says.
fn is_too_much(skew: SignedDuration, lifetime: Lifetime) -> bool {
    let seconds = skew.as_secs().saturating_abs();
    skew.abs() >= MOST_SKEW
        || skew.abs() >= TOLERATED_SKEW && seconds.saturating_mul(PART_OF_LIFETIME) > lifetime.seconds()
}

impl Judge<'_> {
    /// Why no URL of this lifetime is signed while the clocks differ as they do.
    pub(super) fn clock_trouble(&self, store: &StoreView, lifetime: Lifetime) -> Option<(Reason, String)> {
        let skew = store.skew.filter(|skew| is_too_much(*skew, lifetime))?;
        let message = format!(
            "{}; a URL signed now would begin and end at other times than the grant says",
            skewed(skew)
        );
        Some((Reason::ClockSkewed, message))
    }

    /// When, by the operator's clock, the store's clock reaches this end, if the operator's is past it already and the store's is
    /// not. One of the two is wrong, and what ended stays ended.
    pub(super) fn ends_later_at_store(&self, end: Timestamp) -> Option<(Timestamp, String)> {
        let StoreFact::Usable(store) = &self.f.store else {
            return None;
        };
        let skew = store.skew.filter(|skew| is_skewed(Some(*skew)))?;
        let until = add(end, -skew);
        (until > self.now).then(|| (until, skewed(skew)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skews_at_which_nothing_is_signed() {
        for (skew, lifetime, expected) in [
            (0, 60, false),
            (29, 60, false),
            (-29, 1, false),
            (30, 299, true),
            (-30, 299, true),
            (30, 300, false),
            (-90, 900, false),
            (-91, 900, true),
            (299, 3600, false),
            (300, 604_800, true),
            (-1200, 604_800, true),
            (-600_000_000_000, 60, true),
        ] {
            let lifetime = Lifetime {
                issued_at: Timestamp::UNIX_EPOCH,
                expires_at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(lifetime),
            };
            let skew = SignedDuration::from_secs(skew);
            assert_eq!(is_too_much(skew, lifetime), expected, "{skew:?} {lifetime:?}");
        }
    }
}
