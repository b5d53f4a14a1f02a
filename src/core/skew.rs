//! The limits for the difference between the clocks of a store and of the operator. A store compares the times in a
//! signature with its own clock.
//!
//! If the store's clock is ahead, a signed URL can already be expired when Valet issues it. If the store's clock is
//! behind, a signed URL can work longer than the grant allows.

use jiff::SignedDuration;

use super::lifetime::Lifetime;

/// Valet ignores a clock difference that is smaller than 30 seconds. These 30 seconds are half of the shortest useful
/// lifetime of a URL.
pub const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(30);
/// If the clock difference is 5 minutes or more, Valet signs nothing.
pub const MOST_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Valet signs a URL only if the clock difference is at most one tenth of the URL's lifetime.
const PART_OF_LIFETIME: i64 = 10;

/// Returns true if the clocks of the store and the operator differ too much. Valet then does not trust the results of
/// its requests to the store.
pub fn is_skewed(skew: Option<SignedDuration>) -> bool {
    skew.is_some_and(|skew| skew.abs() >= TOLERATED_SKEW)
}

/// Describes the clock difference. Longer messages contain this text. The difference is rounded to 10 s, because a
/// slowly drifting clock would otherwise change the message every minute.
pub fn skewed(skew: SignedDuration) -> String {
    let seconds = skew.as_secs().saturating_abs().saturating_add(5) / 10 * 10;
    if skew.is_negative() {
        format!("the store's clock is about {seconds} s behind the operator's clock; synchronize the clocks (NTP)")
    } else {
        format!("the store's clock is about {seconds} s ahead of the operator's clock; synchronize the clocks (NTP)")
    }
}

/// Returns true if the clock difference is too large for a URL with this lifetime.
pub(super) fn is_too_much(skew: SignedDuration, lifetime: Lifetime) -> bool {
    let seconds = skew.as_secs().saturating_abs();
    skew.abs() >= MOST_SKEW
        || skew.abs() >= TOLERATED_SKEW && seconds.saturating_mul(PART_OF_LIFETIME) > lifetime.seconds()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn clock_skew_above_the_tolerance_prevents_signing() {
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
