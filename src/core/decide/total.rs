//! Applies two settings of the access rules that concern all credentials of one grant together. The limit
//! `maxTotalSeconds` says how long after the creation of a grant its credentials may be valid. The second setting
//! allows or forbids the renewal of credentials.

use jiff::{SignedDuration, Timestamp};

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{
        facts::StoreFact,
        lifetime::{Lifetime, NoTime, add, second},
        policy::{Allowance, allowance},
        refusal::Refusal,
    },
};

impl Evaluator<'_> {
    /// Returns the settings of the access rules for renewal and for `maxTotalSeconds`. If Valet knows no access
    /// rules, the result has no limits.
    pub(super) fn allowance(&self) -> Allowance {
        *self.allowance.get_or_init(|| match (&self.f.store, &self.f.rules) {
            (StoreFact::Usable(store), _) => allowance(self.g, &store.rules, &store.namespace_labels),
            (_, Some(view)) => allowance(self.g, &view.rules, &view.namespace_labels),
            (_, None) => Allowance::ALL,
        })
    }

    /// Returns the latest time at which the limit `maxTotalSeconds` of the access rules allows a credential. The
    /// limit counts from the grant's creation timestamp, because no user can change that timestamp.
    pub(super) fn total_end(&self) -> Option<Timestamp> {
        let seconds = self.allowance().total_seconds?;
        let since = second(self.g.created.unwrap_or(self.now));
        Some(add(since, SignedDuration::from_secs(seconds)))
    }

    /// Returns a refusal if the grant needs a credential, but the limit `maxTotalSeconds` of the access rules is
    /// reached. If somebody increases `maxTotalSeconds`, the grant is allowed again.
    pub(super) fn total_time_refusal(&self, credential: Option<Lifetime>) -> Option<Refusal> {
        self.total_end().filter(|end| *end <= self.now)?;
        let has_ended = credential.is_some_and(|credential| credential.has_expired(self.now))
            || self.own_deadline().is_some_and(|d| d <= self.now);
        (!has_ended).then(|| Refusal {
            reason: Reason::TotalTimeReached,
            message: self.total_time_text(),
        })
    }

    /// Returns the message for a grant that has reached the limit `maxTotalSeconds` of the access rules.
    pub(super) fn total_time_text(&self) -> String {
        let seconds = self.allowance().total_seconds.unwrap_or_default();
        let end = self.total_end().unwrap_or(self.now);
        format!(
            "{store} allows a total of {seconds} s for one grant of namespace {namespace}, including renewals; the total time ends at {end}; create a new grant, or ask the store's owner for a larger maxTotalSeconds",
            store = self.g.terms.store_ref,
            namespace = self.g.namespace
        )
    }

    /// Returns the lifetime of a new credential for a grant whose spec now requests a different lifetime. The new
    /// credential replaces an old credential that is still valid. If the access rules do not allow renewal, the new
    /// lifetime starts at the issue time of the old credential.
    pub(super) fn another_length(
        &self,
        live: Option<Lifetime>,
        fresh: Result<Lifetime, NoTime>,
    ) -> Result<Result<Lifetime, NoTime>, Refusal> {
        let (Some(live), Ok(fresh), false) = (live, fresh, self.allowance().renewal) else {
            return Ok(fresh);
        };
        let issued_at = live.issued_at.min(fresh.issued_at);
        let recorded_seconds = add(issued_at, SignedDuration::from_secs(self.g.terms.expiration_seconds));
        let expires_at = recorded_seconds.min(fresh.expires_at);
        if expires_at > self.now {
            return Ok(Ok(Lifetime { issued_at, expires_at }));
        }
        Err(Refusal {
            reason: Reason::RenewalNotAllowed,
            message: format!(
                "spec.expirationSeconds is {seconds} and counts from the issue time {issued_at}, because {store} does not allow renewal for namespace {namespace}; this lifetime ended at {recorded_seconds}; increase spec.expirationSeconds, or create a new grant",
                seconds = self.g.terms.expiration_seconds,
                store = self.g.terms.store_ref,
                namespace = self.g.namespace
            ),
        })
    }
}
