//! The end of a decision. Valet writes a new status, publishes an Event if a user must do something, and waits until
//! the time of the next decision.

use jiff::{SignedDuration, Timestamp};

use super::{
    evaluator::Evaluator,
    status::{Situation, condition, describe, project},
};
use crate::{
    api::{ConditionType, Progress, Reason},
    core::{
        facts::{ObjectFact, Owner, RulesView, SecretFact, StoreFact, StoreView},
        lifetime::{Lifetime, add, retry},
        policy::{Access, still_allowed},
        refusal::Refusal,
        step::{GrantEvent, Read, Step},
    },
};

/// A Secret with a different owner can have the name from a grant's spec. Valet checks every 60 seconds if this
/// Secret still exists. Valet's watch selects Secrets by label, so it does not report the deletion of this Secret.
const CONFLICT_PAUSE: SignedDuration = SignedDuration::from_secs(60);

impl Evaluator<'_> {
    /// Returns the next step for the deletion of the grant's Secret, if the Secret exists.
    pub(super) fn withdraw(&self) -> Option<Step> {
        match &self.f.secret {
            SecretFact::Unread => Some(Step::Read(Read::Secret)),
            SecretFact::Present(s) if s.owner == Owner::ThisGrant => {
                let (uid, resource_version) = (s.uid.clone(), s.resource_version.clone());
                // A deleted Secret with finalizers can still be read until the finalizers are removed. Valet
                // therefore removes the data of the Secret.
                let is_held = !s.finalizers.is_empty() && s.has_data && self.f.emptying_refused.is_none();
                match self.report_evidence().filter(|_| !s.deleting) {
                    Some(report) => Some(report),
                    None if is_held => Some(Step::Empty { uid, resource_version }),
                    None if s.deleting => None,
                    None => Some(Step::DeleteSecret { uid, resource_version }),
                }
            }
            SecretFact::Present(_) | SecretFact::Absent => None,
        }
    }

    /// The Secret and the memory of this process can contain facts about the credential that the status lacks. This
    /// method copies these facts into the status. Otherwise Valet would treat the grant as a new grant after the
    /// Secret is deleted.
    fn report_evidence(&self) -> Option<Step> {
        let (key, upload) = (self.key(), self.upload());
        let is_known = key.is_none_or(|key| self.is_reported(key)) && self.g.status.upload_id.as_deref() == upload;
        if is_known && (self.g.status_is_own || (key.is_none() && upload.is_none())) {
            return None;
        }
        let mut status = self.g.status.clone();
        status.upload_id = upload.map(str::to_owned);
        if let Some(record) = key.map(|key| self.record(key)) {
            describe(&mut status, &record);
        }
        Some(Step::Report {
            status: Box::new(status),
            notice: None,
        })
    }

    /// Returns a message if the Secret of this grant is being deleted, but finalizers from controllers other than
    /// Valet keep it.
    fn held_secret(&self) -> Option<String> {
        let SecretFact::Present(secret) = &self.f.secret else {
            return None;
        };
        if secret.owner != Owner::ThisGrant || !secret.deleting || secret.finalizers.is_empty() {
            return None;
        }
        let left = match (&self.f.emptying_refused, secret.has_data) {
            (_, false) => "Valet has removed the data of the Secret".to_owned(),
            (Some(why), true) => {
                format!("the data of the Secret can still be read, because Valet could not remove the data: {why}")
            }
            (None, true) => "the data of the Secret can still be read".to_owned(),
        };
        let (mark, finalizers) = (self.held_mark(), secret.finalizers.join(" and "));
        Some(format!("{mark}{finalizers}; {left}"))
    }

    /// Returns the text with which the message about a Secret with finalizers begins.
    fn held_mark(&self) -> String {
        let waits = format!(
            "Secret {name} is being deleted, but the deletion waits for finalizers",
            name = self.g.secret_name()
        );
        format!("; {waits}: ")
    }

    /// Returns the message of a condition without the text about a Secret with finalizers.
    pub(super) fn without_held<'m>(&self, message: &'m str) -> &'m str {
        message.split(&self.held_mark()).next().unwrap_or(message)
    }

    pub(super) fn situation(&self, reason: Reason, message: String, finished: bool) -> Step {
        // If Valet cannot issue a credential now, it retries after a pause. If Valet refuses the grant, it does not
        // retry. It waits for a change of the grant or the store, or for the expiry of the grant's earlier
        // credential.
        let retry = match reason {
            Reason::SecretConflict => Some(add(self.now, CONFLICT_PAUSE)),
            Reason::ExpirationTooLong if self.is_cut_short() => Some(add(self.now, CONFLICT_PAUSE)),
            // Valet needs no retry here, because the quota enqueues the grant when the grant can receive quota.
            Reason::TooManyGrants => None,
            _ => (reason.progress() == Progress::InProgress).then(|| self.retry()),
        };
        let situation = Situation {
            finished,
            ..Situation::of(reason, message, self.key())
        };
        self.settle(&situation, retry.into_iter().chain(self.next_end(self.key())).min())
    }

    /// Returns the step that writes a state to the grant's status. If the status does not change, returns the step
    /// that waits until `until`.
    pub(super) fn situation_until(&self, reason: Reason, message: String, until: Option<Timestamp>) -> Step {
        let situation = Situation::of(reason, message, self.key());
        self.settle(&situation, until.into_iter().chain(self.next_end(self.key())).min())
    }

    /// Returns the next time at which the status of a grant without a Secret must change. For example, this is the
    /// time at which copies of the deleted credential expire.
    pub(super) fn next_end(&self, key: Option<Lifetime>) -> Option<Timestamp> {
        let ends = [
            key.map(|key| self.end(key)),
            // The access rules can set an earlier end with `maxTotalSeconds`. This code also needs the expiry without
            // the access rules.
            key.map(|key| self.own_end(key)),
            self.copies_until(key),
            self.over_at(key),
        ];
        ends.into_iter().flatten().filter(|end| *end > self.now).min()
    }

    /// If the status of the grant must change, returns the step that writes the status. Otherwise returns the step
    /// that waits until `until`.
    pub(super) fn settle(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        if let Some(held) = self.held_secret().filter(|_| !situation.active) {
            let said = Situation {
                message: format!("{}{held}", situation.message),
                ..situation.clone()
            };
            // Valet checks the Secret again after a pause, because no watch reports that somebody removed its
            // finalizers.
            let again = add(self.now, CONFLICT_PAUSE);
            return self.report(&said, Some(until.map_or(again, |until| until.min(again))));
        }
        self.report(situation, until)
    }

    fn report(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        let record = situation.key.map(|key| self.record(key));
        let contested = self.contested().filter(|_| !situation.finished);
        let mut status = project(self.g, situation, record.as_ref(), contested.as_deref(), self.now);
        status.upload_id = self.upload().map(str::to_owned);
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
        let said = |type_: ConditionType, reason: Reason| {
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
        if needs_a_person && !said(ConditionType::Ready, s.reason) {
            return Some(GrantEvent {
                reason: s.reason,
                message: s.message.clone(),
            });
        }
        if let Some(message) = contested
            && !said(ConditionType::SecretContested, Reason::SecretContested)
        {
            return Some(GrantEvent {
                reason: Reason::SecretContested,
                message: message.to_owned(),
            });
        }
        if let Some((reason, message)) = &s.renewal_failing
            && !said(ConditionType::RenewalFailing, *reason)
        {
            return Some(GrantEvent {
                reason: *reason,
                message: message.clone(),
            });
        }
        if s.truncated && !said(ConditionType::Active, Reason::ExpiryTruncated) {
            let end = s.key.map_or(self.now, |k| k.expires_at);
            return Some(GrantEvent {
                reason: Reason::ExpiryTruncated,
                message: format!(
                    "the credential expires at {end}, earlier than the grant requests, because the store's credentials that signed it expire at the same time"
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

    pub(super) fn unreachable(&self, why: &str) -> String {
        format!("{} does not answer correctly: {why}", self.g.terms.store_ref)
    }

    /// Returns the refusal of the grant by the access rules, if Valet cannot use the store now but knows its access
    /// rules.
    pub(super) fn forbidden(&self) -> Option<Refusal> {
        let rules = self.f.rules.as_ref()?;
        still_allowed(self.g, rules).err()
    }

    /// Returns the permission to send requests about the grant to the store, according to the current access rules.
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] if the access rules refuse the grant. If the store was not read yet or does not exist,
    /// no access rules are known, and Valet sends no requests.
    pub(super) fn access(&self) -> Result<Access, Refusal> {
        match (&self.f.store, &self.f.rules) {
            (StoreFact::Usable(store), _) => {
                let rules = RulesView {
                    rules: store.rules.clone(),
                    namespace_labels: store.namespace_labels.clone(),
                };
                still_allowed(self.g, &rules)
            }
            (StoreFact::Unusable { .. }, Some(rules)) => still_allowed(self.g, rules),
            (StoreFact::Unusable { reason, message }, None) => Err(Refusal::new(*reason, message.clone())),
            (StoreFact::Missing | StoreFact::Unread, _) => {
                let message = format!("{} does not exist", self.g.terms.store_ref);
                Err(Refusal::new(Reason::StoreNotFound, message))
            }
        }
    }

    /// Returns a reason and a message if Valet does not know yet which constraints the store enforces. In this case
    /// Valet cannot sign an upload credential.
    pub(super) fn untried(&self, store: &StoreView) -> Option<(Reason, String)> {
        let untried = store.untried.as_ref();
        let untried = untried.filter(|u| self.is_upload() && (!u.only_write_once || self.write_once()))?;
        let why = match untried.reason {
            Reason::ClockSkewed => untried.why.clone(),
            _ => self.unreachable(&untried.why),
        };
        let effect = "Valet does not know yet which constraints the store enforces, so it signs no upload credential";
        Some((untried.reason, format!("{why}; {effect}")))
    }

    /// Returns the earliest time at which a client could upload with a credential of the grant. This is the time at
    /// which the credential was signed. If the credential was renewed, it is the time at which the grant was created.
    pub(super) fn began(&self, key: Lifetime) -> Timestamp {
        // For a multipart upload, the result is the creation time of the grant. The modification time of its object
        // is the time at which Valet initiated the upload (Amazon S3 User Guide, "Working with object metadata").
        let created = self.g.created.filter(|_| self.renewals() > 0 || self.is_in_parts());
        created.map_or(key.issued_at, |created| created.min(key.issued_at))
    }

    /// Returns true if Valet has not read the object yet and the access rules allow reading it.
    pub(super) fn can_look(&self, object: &ObjectFact) -> bool {
        let can_ask = match &self.f.store {
            StoreFact::Unread => true,
            StoreFact::Usable(_) => self.access().is_ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } => false,
        };
        matches!(object, ObjectFact::Unread) && can_ask
    }

    /// Returns true if an object with this modification time was written after the credential was issued. Stores keep
    /// times in whole seconds. If the object was written in the second in which the credential was issued, the result
    /// is therefore true.
    pub(super) fn is_newer(&self, key: Option<Lifetime>, modified_at: Option<Timestamp>) -> bool {
        match (key, modified_at) {
            (Some(key), Some(t)) => add(t, SignedDuration::from_secs(1)) >= self.began(key),
            // The store returns no modification time. If the upload is write-once, the object did not exist before
            // the credential was issued. Otherwise Valet cannot know when the object was written.
            (Some(_), None) => self.write_once(),
            (None, _) => false,
        }
    }
}
