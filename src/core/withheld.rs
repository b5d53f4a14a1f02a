//! Grants whose owner wants no key out: for now, or for good.

use super::{
    decide::Judge,
    facts::{SecretFact, StoreFact},
    lifetime::Lifetime,
    status::{Arrival, Situation, condition},
    step::{Read, Step},
};
use crate::api::Reason;

impl Judge<'_> {
    /// `spec.suspend`: the key is withdrawn and none is signed. Its time runs on, and so does the grant's.
    pub(super) fn suspended(&self, key: Option<Lifetime>) -> Step {
        let message = match self.copies_until(key) {
            Some(end) if end > self.now => {
                format!("spec.suspend is true: the key was withdrawn, but a copy of it works until {end}")
            }
            Some(end) => format!("spec.suspend is true: no key is signed; the last one ended at {end}"),
            None => "spec.suspend is true: no key is signed".to_owned(),
        };
        let situation = Situation::of(Reason::Suspended, message, key);
        self.withhold(&situation, || None)
            .unwrap_or_else(|| self.settle(&situation, self.next_end(key)))
    }

    /// `spec.revoke`: the key is withdrawn, and the grant has finished.
    pub(super) fn revoked(&self) -> Step {
        let key = self.key();
        let mut store = None;
        let message = match self.copies_until(key) {
            Some(end) if end > self.now && self.upload().is_some() => format!(
                "spec.revoke is true: the key was withdrawn from Secret {}, and its upload is aborted, after which copies of its URLs do nothing",
                self.g.secret_name()
            ),
            Some(end) if end > self.now => {
                let remedy = match &self.f.store {
                    StoreFact::Usable(store) if self.access().is_ok() => store.capabilities.revocation,
                    StoreFact::Usable(_) | StoreFact::Missing | StoreFact::Unusable { .. } => {
                        "withdraw the credentials that signed it"
                    }
                    StoreFact::Unread => {
                        store = Some(Step::Read(Read::Store));
                        ""
                    }
                };
                let what = if self.g.ask.is_for_credentials() {
                    "it"
                } else {
                    "its URL"
                };
                format!(
                    "spec.revoke is true: the key was withdrawn from Secret {}, but a copy of {what} works until {end}; only the owner of {} can end it sooner: {remedy}",
                    self.g.secret_name(),
                    self.g.terms.store_ref
                )
            }
            Some(end) => format!("spec.revoke is true: no key is signed any more; the last one ended at {end}"),
            None => "spec.revoke is true: no key is signed any more; none was".to_owned(),
        };
        let arrival = if self.was_seen() {
            Arrival::Unchanged
        } else {
            let why = "the grant was revoked before an upload was seen, and nobody looks any more";
            Arrival::Unknown(Reason::Revoked, why.to_owned())
        };
        let situation = Situation {
            arrival,
            finished: true,
            ..Situation::of(Reason::Revoked, message, key)
        };
        self.withhold(&situation, || store)
            .unwrap_or_else(|| self.settle(&situation, None))
    }

    /// The step that is missing until no key is out: the Secret is withdrawn first, and then it is said so. But a key
    /// that its publisher had no time to report is reported before: with its Secret gone nobody would know of it.
    fn withhold(&self, situation: &Situation, first: impl FnOnce() -> Option<Step>) -> Option<Step> {
        if matches!(self.f.secret, SecretFact::Unread) {
            return Some(Step::Read(Read::Secret));
        }
        let withdraw = self.withdraw();
        if withdraw.is_some() && situation.key.is_some_and(|key| self.is_reported(key)) {
            return withdraw;
        }
        if let Some(step) = first() {
            return Some(step);
        }
        match self.settle(situation, None) {
            // Nothing new to say, whatever the key was.
            Step::Rest { .. } => withdraw,
            report if withdraw.is_some() => Some(report),
            _ => None,
        }
    }

    /// Whether the status speaks of this very key.
    pub(super) fn is_reported(&self, key: Lifetime) -> bool {
        let status = &self.g.status;
        status.issued_time.as_ref().map(|t| t.0) == Some(key.issued_at)
            && status.expiration_time.as_ref().map(|t| t.0) == Some(key.expires_at)
    }

    /// Whether an upload was seen by an earlier visit.
    pub(super) fn was_seen(&self) -> bool {
        condition(&self.g.status, "Completed").is_some_and(|c| c.status == "True")
    }
}
