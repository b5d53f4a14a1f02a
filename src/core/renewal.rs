//! When a key gives way to a new one: instants that follow from the key, the spec and the grant's UID alone.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    lifetime::{Lifetime, add, second},
};
use crate::api::{Reason, annotation};

/// Kubelets take 60 to 90 s to bring a changed Secret to its pods; twice that, for one that is busy. A key with less
/// time left than this and no successor is in danger.
const CARRY: SignedDuration = SignedDuration::from_secs(180);

/// A renewal that ends the key no later than this after the old one's end is not worth a write: the pods have just had
/// the time to notice.
const WORTHWHILE: SignedDuration = SignedDuration::from_secs(60);

/// A renewal comes up to a twelfth of the key's life early, but no more than this: it takes a thousand grants that were
/// made in one second apart to three a second.
const WIDEST_SPREAD: i64 = 300;

/// The longest value of the annotation that is quoted when it is no time.
const LONGEST_QUOTE: usize = 40;

/// What the grant's annotation asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RenewRequest {
    /// Nothing.
    #[default]
    None,
    /// A new key at that time, in whole seconds, if the one that is out was signed before it.
    At(Timestamp),
    /// Something that is no time.
    Invalid(String),
}

impl RenewRequest {
    /// Reads the annotation. A fraction of a second counts as the next whole one, as keys are signed by the second.
    pub fn parse(annotation: Option<&str>) -> Self {
        let Some(text) = annotation else {
            return Self::None;
        };
        match text.parse::<Timestamp>() {
            Ok(t) if t.subsec_nanosecond() == 0 => Self::At(t),
            Ok(t) => Self::At(add(second(t), SignedDuration::from_secs(1))),
            Err(_) => Self::Invalid(text.chars().take(LONGEST_QUOTE).collect()),
        }
    }
}

/// When a key is to be replaced: when a third of its time is left, or [`CARRY`] if that is more, but not before half of
/// it is over (a life that short is the credentials' doing); and up to a twelfth of its time earlier, by the grant's
/// UID.
pub fn renewal_due(key: Lifetime, uid: &str) -> Timestamp {
    let life = key.seconds().max(0);
    let lead = (life / 3).max(CARRY.as_secs()).min(life / 2);
    let spread = (life / 12).min(WIDEST_SPREAD);
    let early = if spread > 0 {
        (hash(uid) % spread.unsigned_abs()).cast_signed()
    } else {
        0
    };
    add(key.expires_at, SignedDuration::from_secs(-lead - early))
}

/// FNV-1a: the same number for a UID in every version of this program, so that an upgrade moves no renewal.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Judge<'_> {
    /// When the grant is over, if nothing changes before: at its key's end; with renewal at the deadline, or so shortly
    /// before it that another key would not be worth it. `None`: it has no end.
    pub(super) fn over_at(&self, key: Option<Lifetime>) -> Option<Timestamp> {
        let deadline = self.deadline();
        match key {
            Some(key) if self.g.terms.renews() => deadline.map(|d| self.end(key).max(add(d, -WORTHWHILE))),
            Some(key) => Some(self.end(key)),
            // What keeps a grant from its first key does not keep it beyond its deadline.
            None => deadline,
        }
    }

    /// The key, if it still works and may.
    pub(super) fn live(&self, key: Option<Lifetime>) -> Option<Lifetime> {
        key.filter(|k| self.end(*k) > self.now)
    }

    /// When this key gives way to another one, if it does.
    pub(super) fn renewal_at(&self, key: Lifetime) -> Option<Timestamp> {
        let worthwhile = self.deadline().is_none_or(|d| d > add(key.expires_at, WORTHWHILE));
        let automatic = (self.g.terms.renews() && worthwhile).then(|| renewal_due(key, &self.g.uid));
        self.requested(key)
            .into_iter()
            .chain(automatic)
            .min()
            .filter(|t| *t < self.end(key))
    }

    /// When somebody wants this key replaced. A request is answered by any key that was signed at its time or later.
    fn requested(&self, key: Lifetime) -> Option<Timestamp> {
        match self.g.renew_requested {
            RenewRequest::At(t) if t > key.issued_at && self.allowance().renewal => Some(t),
            _ => None,
        }
    }

    /// Whether `fresh` is a gain over the key that is out: by its end, or since somebody wants another one.
    pub(super) fn is_gain(&self, key: Lifetime, fresh: Lifetime) -> bool {
        let is_wanted = self.requested(key).is_some_and(|t| t <= self.now);
        let is_long_enough = fresh.expires_at >= key.expires_at.min(add(self.now, WORTHWHILE));
        fresh.expires_at > add(key.expires_at, WORTHWHILE) || (is_wanted && is_long_enough)
    }

    /// When to try a renewal again that did not come about: sooner as the end comes nearer, since nothing tells that
    /// the trouble is over.
    pub(super) fn retry_renewal(&self, key: Lifetime) -> Timestamp {
        let left = self.end(key).duration_since(self.now);
        let pause = (left / 10).clamp(SignedDuration::from_secs(5), SignedDuration::from_secs(600));
        let danger = add(self.end(key), -CARRY);
        let next = add(self.now, pause);
        if danger > self.now { next.min(danger) } else { next }
    }

    /// What a person must know of the renewal of a key that is out.
    pub(super) fn renewal_failing(&self, key: Lifetime, trouble: Option<&str>) -> Option<(Reason, String)> {
        let end = self.end(key);
        if let Some(why) = trouble
            && self.g.terms.renews()
            && add(end, -CARRY) <= self.now
        {
            let message = format!("the key ends at {end}, and no new one could be made: {why}");
            return Some((Reason::RenewalOverdue, message));
        }
        let value = match &self.g.renew_requested {
            RenewRequest::Invalid(value) => value,
            RenewRequest::At(t) if *t > key.issued_at && !self.allowance().renewal => {
                let message = format!(
                    "the annotation {} asks for a new credential, and {} allows namespace {} no renewal; remove the annotation, or ask the store's owner for a rule with renewal: Allow",
                    annotation::RENEW_REQUESTED_AT,
                    self.g.terms.store_ref,
                    self.g.namespace
                );
                return Some((Reason::RenewalNotAllowed, message));
            }
            RenewRequest::At(_) | RenewRequest::None => return None,
        };
        let message = format!(
            "the annotation {} is {value:?}, which is no RFC 3339 time with its zone, and asks for nothing; write it as 2027-01-31T18:00:00Z",
            annotation::RENEW_REQUESTED_AT
        );
        Some((Reason::RenewalRequestInvalid, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(life: i64, uid: &str) -> i64 {
        let issued_at = Timestamp::from_second(1_700_000_000).unwrap();
        let expires_at = add(issued_at, SignedDuration::from_secs(life));
        renewal_due(Lifetime { issued_at, expires_at }, uid).as_second() - 1_700_000_000
    }

    /// For every life that the schema lets renew, and every UID: after half of it, and with time to carry the new one.
    #[test]
    fn a_renewal_is_neither_early_nor_late() {
        for life in (600..4000).chain([86_400, 604_800]) {
            for n in 0..50 {
                let due = due(life, &format!("uid-{n}"));
                assert!(due * 2 >= life, "{life}: {due} is early");
                assert!(life - due >= 180, "{life}: {due} is late");
                assert!(life - due <= life / 3 + (life / 12).min(300), "{life}: {due}");
            }
        }
    }

    /// A key that its credentials cut short is replaced at half of its time, and never before it was signed.
    #[test]
    fn short_lives() {
        for life in -1..600 {
            let due = due(life, "some-uid");
            assert!(due >= life * 5 / 12 - 1 || life < 0, "{life}: {due}");
            assert!(due <= life.max(0), "{life}: {due}");
        }
    }

    #[test]
    fn a_thousand_grants_of_one_second_renew_over_minutes() {
        let mut seconds = std::collections::BTreeMap::<i64, usize>::new();
        for n in 0..1000 {
            *seconds
                .entry(due(3600, &format!("{n:08x}-1c1e-4f0a-9d3b-0242ac120002")))
                .or_default() += 1;
        }
        assert!(seconds.len() > 250, "{} different seconds", seconds.len());
        assert!(seconds.values().all(|n| *n < 15), "{seconds:?}");
    }

    #[test]
    fn requests_are_times_or_named() {
        let at = |t: &str| RenewRequest::At(t.parse().unwrap());
        for (text, read) in [
            ("2027-01-15T08:00:00Z", at("2027-01-15T08:00:00Z")),
            ("2027-01-15T09:00:00+01:00", at("2027-01-15T08:00:00Z")),
            ("2027-01-15T08:00:00.000000001Z", at("2027-01-15T08:00:01Z")),
            (
                "2027-01-15T08:00:00",
                RenewRequest::Invalid("2027-01-15T08:00:00".into()),
            ),
            ("now", RenewRequest::Invalid("now".into())),
            ("", RenewRequest::Invalid(String::new())),
        ] {
            assert_eq!(RenewRequest::parse(Some(text)), read);
        }
        assert_eq!(RenewRequest::parse(None), RenewRequest::None);
        let RenewRequest::Invalid(quoted) = RenewRequest::parse(Some(&"ü".repeat(9999))) else {
            panic!("that is no time");
        };
        assert_eq!(quoted.chars().count(), LONGEST_QUOTE);
    }
}
