//! Decides when a credential is renewed. The time of a renewal depends only on the credential, the grant's spec and
//! the grant's UID.

use jiff::{SignedDuration, Timestamp};

use super::evaluator::Evaluator;
use crate::{
    api::{Reason, annotation},
    core::{
        lifetime::{Lifetime, add, hash},
        renew_request::RenewRequest,
    },
};

/// The longest time that a new credential needs to reach the pods. A kubelet usually updates a mounted Secret within
/// 60 to 90 s. A busy kubelet needs up to 180 s. If a credential expires in less than 180 s, its renewal is overdue.
const CARRY: SignedDuration = SignedDuration::from_secs(180);

/// Valet renews a credential only if the new credential expires at least this much later. A smaller difference does
/// not justify a write of the Secret.
const MIN_GAIN: SignedDuration = SignedDuration::from_secs(60);

/// The maximum number of seconds by which Valet moves a renewal to an earlier time. Without such different offsets,
/// Valet would renew all grants from one second at the same time. For short lifetimes, the maximum is a twelfth of
/// the lifetime. With an offset of up to 300 seconds, Valet renews 1000 such grants at a rate of about 3 per second.
const WIDEST_SPREAD: i64 = 300;

/// Returns the time at which a credential is renewed. Valet renews a credential when a third of its lifetime is left.
/// If a third is less than [`CARRY`], Valet renews the credential when [`CARRY`] is left.
///
/// A hash of the grant's UID moves the renewal earlier, by up to a twelfth of the credential's lifetime.
///
/// A renewal never takes place before half of the lifetime has passed. This matters if the lifetime is very short,
/// because the store's signing credentials expire soon.
pub fn renewal_due(credential: Lifetime, uid: &str) -> Timestamp {
    let life = credential.seconds().max(0);
    let lead = (life / 3).max(CARRY.as_secs()).min(life / 2);
    let spread = (life / 12).min(WIDEST_SPREAD);
    let early = if spread > 0 {
        (hash(uid) % spread.unsigned_abs()).cast_signed()
    } else {
        0
    };
    add(credential.expires_at, SignedDuration::from_secs(-lead - early))
}

impl Evaluator<'_> {
    /// Returns the time at which the grant ends if nobody changes the grant. Returns `None` if the grant does not
    /// end.
    ///
    /// A grant without renewal ends when its credential expires. A grant with renewal ends at its deadline, or when
    /// its last credential expires shortly before the deadline.
    pub(super) fn expired_at(&self, credential: Option<Lifetime>) -> Option<Timestamp> {
        let deadline = self.deadline();
        match credential {
            Some(credential) if self.g.terms.renews() => {
                deadline.map(|d| self.end(credential).max(add(d, -MIN_GAIN)))
            }
            Some(credential) => Some(self.end(credential)),
            // A grant without a credential ends at its deadline.
            None => deadline,
        }
    }

    /// Returns the credential's lifetime if the credential is still valid.
    pub(super) fn live(&self, credential: Option<Lifetime>) -> Option<Lifetime> {
        credential.filter(|k| self.end(*k) > self.now)
    }

    /// Returns the time at which Valet renews the credential. Returns `None` if Valet does not renew the credential.
    pub(super) fn renewal_at(&self, credential: Lifetime) -> Option<Timestamp> {
        let worthwhile = self.deadline().is_none_or(|d| d > add(credential.expires_at, MIN_GAIN));
        let automatic = (self.g.terms.renews() && worthwhile).then(|| renewal_due(credential, &self.g.uid));
        self.requested(credential)
            .into_iter()
            .chain(automatic)
            .min()
            .filter(|t| *t < self.end(credential))
    }

    /// Returns the time from the annotation with which a user requested a new credential. Returns `None` if the
    /// current credential was signed at this time or later, because Valet has then already fulfilled the request.
    fn requested(&self, credential: Lifetime) -> Option<Timestamp> {
        match self.g.renew_requested {
            RenewRequest::At(t) if t > credential.issued_at && self.allowance().renewal => Some(t),
            _ => None,
        }
    }

    /// Returns true if Valet should replace the current credential with a new credential. `credential` is the lifetime of
    /// the current credential, and `fresh` is the lifetime of the new one. A replacement is useful if `fresh` ends
    /// later, or if a user requested a new credential.
    pub(super) fn is_worth_replacing(&self, credential: Lifetime, fresh: Lifetime) -> bool {
        let is_wanted = self.requested(credential).is_some_and(|t| t <= self.now);
        let is_long_enough = fresh.expires_at >= credential.expires_at.min(add(self.now, MIN_GAIN));
        fresh.expires_at > add(credential.expires_at, MIN_GAIN) || (is_wanted && is_long_enough)
    }

    /// Returns the time at which Valet retries a failed renewal. Valet must retry, because no event tells Valet when
    /// the cause of the failure has ended. The pauses between retries become shorter near the expiry of the
    /// credential.
    pub(super) fn retry_renewal(&self, credential: Lifetime) -> Timestamp {
        let left = self.end(credential).duration_since(self.now);
        let pause = (left / 10).clamp(SignedDuration::from_secs(5), SignedDuration::from_secs(600));
        let danger = add(self.end(credential), -CARRY);
        let next = add(self.now, pause);
        if danger > self.now { next.min(danger) } else { next }
    }

    /// Returns the reason and message of the condition `RenewalFailing`. Returns `None` if the renewal is not
    /// overdue.
    pub(super) fn renewal_failing(&self, credential: Lifetime, trouble: Option<&str>) -> Option<(Reason, String)> {
        let end = self.end(credential);
        if let Some(why) = trouble
            && self.g.terms.renews()
            && add(end, -CARRY) <= self.now
        {
            let message = format!("the credential expires at {end}, and Valet could not renew the credential: {why}");
            return Some((Reason::RenewalOverdue, message));
        }
        let value = match &self.g.renew_requested {
            RenewRequest::Invalid(value) => value,
            RenewRequest::At(t) if *t > credential.issued_at && !self.allowance().renewal => {
                let message = format!(
                    "the annotation {annotation} requests a new credential, but {store} does not allow renewal for namespace {namespace}; remove the annotation, or ask the store's owner for an access rule with renewal: Allow",
                    annotation = annotation::RENEW_REQUESTED_AT,
                    store = self.g.terms.store_ref,
                    namespace = self.g.namespace
                );
                return Some((Reason::RenewalNotAllowed, message));
            }
            RenewRequest::At(_) | RenewRequest::None => return None,
        };
        let message = format!(
            "the annotation {annotation} has the value {value:?} and is ignored, because this value is not an RFC 3339 time with a time zone; set a time such as 2027-01-31T18:00:00Z",
            annotation = annotation::RENEW_REQUESTED_AT
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

    /// Valet never renews a credential before half of its lifetime has passed. After a renewal, the pods always have
    /// enough time to receive the new credential before the old credential expires. The test covers the lifetimes
    /// that the schema allows for renewal.
    #[test]
    fn renewal_is_after_half_the_lifetime_and_well_before_expiry() {
        for life in (600..4000).chain([86_400, 604_800]) {
            for n in 0..50 {
                let due = due(life, &format!("uid-{n}"));
                assert!(due * 2 >= life, "{life}: {due} is early");
                assert!(life - due >= 180, "{life}: {due} is late");
                assert!(life - due <= life / 3 + (life / 12).min(300), "{life}: {due}");
            }
        }
    }

    /// If the store's signing credentials expire soon, Valet signs a credential with a short lifetime. Valet replaces
    /// this credential after half of its lifetime. The time of the replacement is never before the time at which the
    /// credential was signed.
    #[test]
    fn renewal_of_a_short_credential_is_within_its_lifetime() {
        for life in -1..600 {
            let due = due(life, "some-uid");
            assert!(due >= life * 5 / 12 - 1 || life < 0, "{life}: {due}");
            assert!(due <= life.max(0), "{life}: {due}");
        }
    }

    #[test]
    fn renewals_of_1000_simultaneous_grants_are_spread_over_minutes() {
        let mut seconds = std::collections::BTreeMap::<i64, usize>::new();
        for n in 0..1000 {
            *seconds
                .entry(due(3600, &format!("{n:08x}-1c1e-4f0a-9d3b-0242ac120002")))
                .or_default() += 1;
        }
        assert!(seconds.len() > 250, "{} different seconds", seconds.len());
        assert!(seconds.values().all(|n| *n < 15), "{seconds:?}");
    }
}
