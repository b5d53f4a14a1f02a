//! Determines the step that reports the result of a decision. If the status changes, Valet writes the new status, and
//! publishes an Event if a user must do something. If the status does not change, Valet waits until the time of the
//! next decision.

use jiff::{SignedDuration, Timestamp};

use super::{
    evaluator::Evaluator,
    status::{Situation, condition, project},
};
use crate::{
    api::{ConditionType, Progress, Reason},
    core::{
        lifetime::{Lifetime, add, retry},
        step::{GrantEvent, Step},
    },
};

/// If the grant's Secret name is already used by a Secret with a different owner, Valet checks every 60 seconds whether
/// this Secret still exists. Valet must check, because its watch selects Secrets by label and does not report the
/// deletion of this Secret.
const CONFLICT_PAUSE: SignedDuration = SignedDuration::from_secs(60);

impl Evaluator<'_> {
    pub(super) fn situation(&self, reason: Reason, message: String, finished: bool) -> Step {
        // If Valet cannot issue a credential now, it retries after a pause. If Valet refuses the grant, it does not
        // retry. Valet then waits until the grant or the store changes, or until an earlier credential of the grant
        // expires.
        let retry = match reason {
            Reason::SecretConflict => Some(add(self.now, CONFLICT_PAUSE)),
            Reason::ExpirationTooLong if self.is_cut_short() => Some(add(self.now, CONFLICT_PAUSE)),
            // Valet needs no retry here, because the quota enqueues the grant as soon as enough quota is free.
            Reason::TooManyGrants => None,
            _ => (reason.progress() == Progress::InProgress).then(|| self.retry()),
        };
        let situation = Situation {
            finished,
            ..Situation::of(reason, message, self.credential())
        };
        self.settle(
            &situation,
            retry.into_iter().chain(self.next_end(self.credential())).min(),
        )
    }

    /// Returns the step that writes a state to the grant's status. If the status does not change, returns the step
    /// that waits until `until`.
    pub(super) fn situation_until(&self, reason: Reason, message: String, until: Option<Timestamp>) -> Step {
        let situation = Situation::of(reason, message, self.credential());
        self.settle(
            &situation,
            until.into_iter().chain(self.next_end(self.credential())).min(),
        )
    }

    /// Returns the next time at which the status of a grant without a Secret must change. For example, this is the
    /// time at which copies of the deleted credential expire.
    pub(super) fn next_end(&self, credential: Option<Lifetime>) -> Option<Timestamp> {
        let ends = [
            credential.map(|credential| self.end(credential)),
            // The limit `maxTotalSeconds` of the access rules can make `self.end` earlier than `self.own_end`. The
            // status must change at both times, so the list contains both.
            credential.map(|credential| self.own_end(credential)),
            self.copies_expire_at(credential),
            self.expired_at(credential),
        ];
        ends.into_iter().flatten().filter(|end| *end > self.now).min()
    }

    /// If the status of the grant must change, returns the step that writes the status. Otherwise returns the step
    /// that waits until `until`.
    pub(super) fn settle(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        if let Some(held) = self.blocked_secret().filter(|_| !situation.active) {
            let is_reported_as = Situation {
                message: format!("{}{held}", situation.message),
                ..situation.clone()
            };
            // Valet checks the Secret again after a pause, because no watch reports the removal of the Secret's
            // finalizers.
            let again = add(self.now, CONFLICT_PAUSE);
            return self.report(&is_reported_as, Some(until.map_or(again, |until| until.min(again))));
        }
        self.report(situation, until)
    }

    fn report(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        let record = situation.credential.map(|credential| self.record(credential));
        let contested = self.contested().filter(|_| !situation.finished);
        let mut status = project(self.g, situation, record.as_ref(), contested.as_deref(), self.now);
        status.upload_id = self.upload_id().map(str::to_owned);
        if status == self.g.status && self.g.status_is_own {
            let forgets = contested.and_then(|_| self.f.repairs.contested_until(self.now));
            let until = until.into_iter().chain(forgets).min();
            return Step::Rest { until };
        }
        let notice = self.notice(situation, contested.as_deref());
        Step::Report {
            status: Box::new(status),
            notice,
        }
    }

    /// Returns an Event if a user must do something and Valet has not published this Event yet.
    fn notice(&self, s: &Situation, contested: Option<&str>) -> Option<GrantEvent> {
        let is_reported_as = |type_: ConditionType, reason: Reason| {
            condition(&self.g.status, type_).is_some_and(|c| c.reason == reason.as_str())
        };
        let needs_a_person = s.reason.progress() == Progress::Stalled
            || matches!(
                s.reason,
                Reason::StoreUnreachable
                    | Reason::CredentialsNotFound
                    | Reason::CredentialsInvalid
                    | Reason::CredentialsExpired
                    | Reason::CredentialsRefused
                    | Reason::BucketNotFound
                    | Reason::RegionMismatch
                    | Reason::ClockSkewed
            );
        if needs_a_person && !is_reported_as(ConditionType::Ready, s.reason) {
            return Some(GrantEvent {
                reason: s.reason,
                message: s.message.clone(),
            });
        }
        if let Some(message) = contested
            && !is_reported_as(ConditionType::SecretContested, Reason::SecretContested)
        {
            return Some(GrantEvent {
                reason: Reason::SecretContested,
                message: message.to_owned(),
            });
        }
        if let Some((reason, message)) = &s.renewal_failing
            && !is_reported_as(ConditionType::RenewalFailing, *reason)
        {
            return Some(GrantEvent {
                reason: *reason,
                message: message.clone(),
            });
        }
        if s.truncated && !is_reported_as(ConditionType::Active, Reason::ExpiryTruncated) {
            let end = s.credential.map_or(self.now, |k| k.expires_at);
            return Some(GrantEvent {
                reason: Reason::ExpiryTruncated,
                message: format!(
                    "the credential expires at {end}, earlier than the grant requests, because Valet signed it with credentials of the store that expire at the same time"
                ),
            });
        }
        None
    }

    pub(super) fn retry(&self) -> Timestamp {
        retry(
            condition(&self.g.status, ConditionType::Ready)
                .filter(|c| c.status == "False")
                .map(|c| c.last_transition_time.0),
            self.now,
        )
    }
}
