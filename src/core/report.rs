//! What the rows of the table of states end with: a status, perhaps an event, and rest until the next instant.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    facts::{ObjectFact, Owner, RulesView, SecretFact, StoreFact, StoreView},
    lifetime::{Lifetime, add, retry},
    policy::{Access, Refusal, still_allowed},
    status::{Situation, condition, describe, project},
    step::{Notice, Read, Step},
};
use crate::api::{Progress, Reason};

/// How often a Secret that stands in the way is looked at again: nothing tells when somebody has removed it, since it
/// bears no mark of ours that could be watched for.
const CONFLICT_PAUSE: SignedDuration = SignedDuration::from_secs(60);

impl Judge<'_> {
    /// The step that leaves no Secret of this grant's, if one is needed.
    pub(super) fn withdraw(&self) -> Option<Step> {
        match &self.f.secret {
            SecretFact::Unread => Some(Step::Read(Read::Secret)),
            SecretFact::Present(s) if s.owner == Owner::ThisGrant => {
                let (uid, resource_version) = (s.uid.clone(), s.resource_version.clone());
                // A Secret that is held stays readable after its deletion.
                let is_held = !s.finalizers.is_empty() && s.has_data && self.f.emptying_refused.is_none();
                match self.report_evidence().filter(|_| !s.deleting) {
                    Some(report) => Some(report),
                    None if is_held => Some(Step::Empty { uid, resource_version }),
                    None if s.deleting => None,
                    None => Some(Step::Withdraw { uid, resource_version }),
                }
            }
            SecretFact::Present(_) | SecretFact::Absent => None,
        }
    }

    /// Puts into the status what only the Secret or this process knows, if that is so: with the Secret gone nobody would know
    /// of the credential and of its upload, and the grant would count as new.
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

    /// What is to be said of a Secret of this grant's that is being deleted and that somebody's finalizers hold.
    fn held_secret(&self) -> Option<String> {
        let SecretFact::Present(secret) = &self.f.secret else {
            return None;
        };
        if secret.owner != Owner::ThisGrant || !secret.deleting || secret.finalizers.is_empty() {
            return None;
        }
        let left = match (&self.f.emptying_refused, secret.has_data) {
            (_, false) => "Valet has removed its data".to_owned(),
            (Some(why), true) => format!("its data could not be removed and can still be read ({why})"),
            (None, true) => "its data can still be read".to_owned(),
        };
        Some(format!(
            "{}{} hold{} it; {left}",
            self.held_mark(),
            secret.finalizers.join(" and "),
            if secret.finalizers.len() == 1 { "s" } else { "" }
        ))
    }

    /// With which that begins.
    fn held_mark(&self) -> String {
        format!("; Secret {} is being deleted, and finalizer ", self.g.secret_name())
    }

    /// A message of an earlier report, without what was said of a Secret that was held.
    pub(super) fn without_held<'m>(&self, message: &'m str) -> &'m str {
        message.split(&self.held_mark()).next().unwrap_or(message)
    }

    pub(super) fn situation(&self, reason: Reason, message: String, finished: bool) -> Step {
        // What waits asks again by itself; what is refused waits for a change, or for the end of a key that it had.
        let retry = match reason {
            Reason::SecretConflict => Some(add(self.now, CONFLICT_PAUSE)),
            Reason::ExpirationTooLong if self.is_cut_short() => Some(add(self.now, CONFLICT_PAUSE)),
            // Called when its turn comes.
            Reason::TooManyGrants => None,
            _ => (reason.progress() == Progress::InProgress).then(|| self.retry()),
        };
        let situation = Situation {
            finished,
            ..Situation::of(reason, message, self.key())
        };
        self.settle(&situation, retry.into_iter().chain(self.next_end(self.key())).min())
    }

    /// The same for a grant that goes on at `until` by itself.
    pub(super) fn situation_until(&self, reason: Reason, message: String, until: Option<Timestamp>) -> Step {
        let situation = Situation::of(reason, message, self.key());
        self.settle(&situation, until.into_iter().chain(self.next_end(self.key())).min())
    }

    /// The next instant at which a key that was withdrawn comes to an end, in one sense or another.
    pub(super) fn next_end(&self, key: Option<Lifetime>) -> Option<Timestamp> {
        let ends = [
            key.map(|key| self.end(key)),
            // With the rules' own end over, the grant's deadline is still to come.
            key.map(|key| self.own_end(key)),
            self.copies_until(key),
            self.over_at(key),
        ];
        ends.into_iter().flatten().filter(|end| *end > self.now).min()
    }

    /// Reports the situation if that says anything new; otherwise rests.
    pub(super) fn settle(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        if let Some(held) = self.held_secret().filter(|_| !situation.active) {
            let said = Situation {
                message: format!("{}{held}", situation.message),
                ..situation.clone()
            };
            // Nothing tells when it is let go.
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

    /// An event, where a person must act and has not been told.
    fn notice(&self, s: &Situation, contested: Option<&str>) -> Option<Notice> {
        let said = |type_: &str, reason: Reason| {
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
        if needs_a_person && !said("Ready", s.reason) {
            return Some(Notice {
                reason: s.reason,
                message: s.message.clone(),
            });
        }
        if let Some(message) = contested
            && !said("SecretContested", Reason::SecretContested)
        {
            return Some(Notice {
                reason: Reason::SecretContested,
                message: message.to_owned(),
            });
        }
        if let Some((reason, message)) = &s.renewal_failing
            && !said("RenewalFailing", *reason)
        {
            return Some(Notice {
                reason: *reason,
                message: message.clone(),
            });
        }
        if s.truncated && !said("Active", Reason::ExpiryTruncated) {
            let end = s.key.map_or(self.now, |k| k.expires_at);
            return Some(Notice {
                reason: Reason::ExpiryTruncated,
                message: format!(
                    "the key ends at {end}, earlier than asked, since the credentials that signed it end then"
                ),
            });
        }
        None
    }

    pub(super) fn retry(&self) -> Timestamp {
        retry(
            condition(&self.g.status, "Ready")
                .filter(|c| c.status == "False")
                .map(|c| c.last_transition_time.0),
            self.now,
        )
    }

    pub(super) fn unreachable(&self, why: &str) -> String {
        format!("{} does not answer as it should: {why}", self.g.terms.store_ref)
    }

    /// What the rules of a store that cannot be used now say against the grant, if they are known and do.
    pub(super) fn forbidden(&self) -> Option<Refusal> {
        let rules = self.f.rules.as_ref()?;
        still_allowed(self.g, rules).err()
    }

    /// Whether the store may be asked about the grant: whether its rules, as they were just read, allow it.
    ///
    /// # Errors
    /// Why not. Of a store that was not read or does not exist no rules are known, and so nothing is allowed.
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

    /// Why no key for an upload is signed now: what its holder could do with it, if the store is careless, is not known yet.
    pub(super) fn untried(&self, store: &StoreView) -> Option<(Reason, String)> {
        let untried = store.untried.as_ref();
        let untried = untried.filter(|u| self.is_upload() && (!u.only_write_once || self.write_once()))?;
        let why = match untried.reason {
            Reason::ClockSkewed => untried.why.clone(),
            _ => self.unreachable(&untried.why),
        };
        let message = format!(
            "{why}; until it was tried out, it is not known yet what the store enforces, and no key for this upload is signed"
        );
        Some((untried.reason, message))
    }

    /// Since when there may be uploads by the grant's keys: since this one was signed, or, of one that follows others,
    /// since the grant was made.
    pub(super) fn began(&self, key: Lifetime) -> Timestamp {
        // An object that came in parts has the time at which its upload was begun (Amazon S3 User Guide, "Working with
        // object metadata").
        let created = self.g.created.filter(|_| self.renewals() > 0 || self.is_in_parts());
        created.map_or(key.issued_at, |created| created.min(key.issued_at))
    }

    /// Whether a look has yet to be taken, and can.
    pub(super) fn can_look(&self, object: &ObjectFact) -> bool {
        let can_ask = match &self.f.store {
            StoreFact::Unread => true,
            StoreFact::Usable(_) => self.access().is_ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } => false,
        };
        matches!(object, ObjectFact::Unread) && can_ask
    }

    /// Whether an object of that time came after the key was issued. Stores keep whole seconds, so the second that
    /// both lie in is given to the upload.
    pub(super) fn is_newer(&self, key: Option<Lifetime>, modified_at: Option<Timestamp>) -> bool {
        match (key, modified_at) {
            (Some(key), Some(t)) => add(t, SignedDuration::from_secs(1)) >= self.began(key),
            // A store that does not say when: write-once says that there was none before.
            (Some(_), None) => self.write_once(),
            (None, _) => false,
        }
    }
}
