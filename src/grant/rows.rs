//! The rows of the table of states: each method is one situation, and names the step that is missing for it or, if
//! none is, reports it and rests.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    facts::{ObjectFact, Owner, SecretFact, StoreFact},
    lifetime::{LOOK_PATIENCE, Lifetime, add, next_look, retry},
    object::mismatch,
    status::{Arrival, Situation, condition, project},
    step::{Notice, Read, Step},
};
use crate::api::{Ask, ObservedObject, Progress, Reason, annotation};

/// How often a Secret that stands in the way is looked at again: nothing tells when somebody has removed it, since it
/// bears no mark of ours that could be watched for.
const CONFLICT_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// How long the Secret of a deleted grant of the same name may take to be collected before it counts as a conflict.
const PREDECESSOR_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

impl Judge<'_> {
    /// Done: no Secret, a true observedGeneration, and collection when its time has come.
    pub(super) fn finish(&self, reason: Reason, finished: Timestamp) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let ready = condition(&self.g.status, "Ready");
        let situation = Situation {
            reason,
            message: ready.map(|c| c.message.clone()).unwrap_or_default(),
            key: self.key(),
            active: false,
            truncated: false,
            arrival: Arrival::Unchanged,
            finished: true,
        };
        let ttl = match self.g.terms.retention() {
            Some(own) => own,
            None if self.g.tracked_by.is_some() => None,
            None => self.f.settings.ttl_seconds_after_finished,
        };
        let until = ttl.map(|seconds| add(finished, SignedDuration::from_secs(seconds)));
        if until.is_some_and(|t| t <= self.now) {
            return Step::Collect;
        }
        self.settle(&situation, until)
    }

    /// A Secret of the wanted name that is not this grant's: never touched, only reported.
    pub(super) fn somebody_elses(&self) -> Option<Step> {
        let SecretFact::Present(secret) = &self.f.secret else {
            return None;
        };
        let name = self.g.secret_name();
        match &secret.owner {
            Owner::ThisGrant => None,
            Owner::Predecessor
                if self.g.created.is_some_and(|c| self.now < add(c, PREDECESSOR_PATIENCE)) =>
            {
                let message = format!("Secret {name} belongs to a deleted grant of this name and is being collected");
                Some(self.situation(Reason::PredecessorSecret, message, false))
            }
            Owner::Predecessor => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} belongs to a deleted grant of this name and was not collected; delete it, or make a grant with another spec.secretName"),
                false,
            )),
            Owner::Foreign(why) => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} exists and is not this grant's ({why}); Valet does not touch it: delete it, or make a grant with another spec.secretName"),
                false,
            )),
        }
    }

    /// The key's time is over, or the deadline passed before there was one.
    pub(super) fn over(&self, key: Option<Lifetime>) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let (end, said) = match key {
            Some(key) if key.is_over(self.now) => (key.expires_at, format!("the key expired at {}", key.expires_at)),
            Some(key) => {
                let deadline = self.end(key);
                let copies = format!("a copy of it works until {}", key.expires_at);
                (
                    deadline,
                    format!("spec.deadlineTime {deadline} has passed; the key was withdrawn, but {copies}"),
                )
            }
            None => {
                let deadline = self.deadline().unwrap_or(self.now);
                (
                    deadline,
                    format!("spec.deadlineTime {deadline} has passed; no key was issued"),
                )
            }
        };
        let situation = |reason, message, arrival, finished| Situation {
            reason,
            message,
            key,
            active: false,
            truncated: false,
            arrival,
            finished,
        };
        if !self.is_upload() {
            return self.settle(&situation(Reason::Expired, said, Arrival::Unchanged, true), None);
        }
        let unknown = |reason, why: &str| {
            let arrival = Arrival::Unknown(reason, why.to_owned());
            situation(
                Reason::Expired,
                format!("{said}; whether something was uploaded is not known: {why}"),
                arrival,
                true,
            )
        };
        match &self.f.object {
            ObjectFact::Unread => match &self.f.store {
                StoreFact::Usable(_) => Step::Read(Read::Object),
                StoreFact::Unread => Step::Read(Read::Store),
                StoreFact::Missing => self.settle(&unknown(Reason::StoreNotFound, "the store was deleted"), None),
                StoreFact::Unusable { reason, message } if self.now < add(end, LOOK_PATIENCE) => {
                    let s = situation(
                        *reason,
                        format!("{said}; waiting for a last look at the store: {message}"),
                        Arrival::Unchanged,
                        false,
                    );
                    self.settle(&s, Some(self.retry()))
                }
                StoreFact::Unusable { reason, message } => self.settle(&unknown(*reason, message), None),
            },
            ObjectFact::Present { object, modified_at } if self.is_newer(key, *modified_at) => {
                match self.mismatch(object) {
                    Some(why) => self.another_object(&why),
                    None => self.completed(key, object),
                }
            }
            ObjectFact::Present { object, .. } if self.write_once() => self.exists_already(object),
            ObjectFact::Absent | ObjectFact::Present { .. } => {
                let message = format!("{said} and nothing was uploaded; make a new grant");
                self.settle(&situation(Reason::ExpiredUnused, message, Arrival::NotYet, true), None)
            }
            ObjectFact::Hidden => self.settle(
                &unknown(
                    Reason::NotObservable,
                    "the store's credentials do not permit to look (HEAD was refused)",
                ),
                None,
            ),
            ObjectFact::Unreachable(why) if self.now < add(end, LOOK_PATIENCE) => {
                let message = format!(
                    "{said}; waiting for a last look whether the upload arrived: {}",
                    self.unreachable(why)
                );
                self.settle(
                    &situation(Reason::StoreUnreachable, message, Arrival::Unchanged, false),
                    Some(self.retry()),
                )
            }
            ObjectFact::Unreachable(why) => {
                self.settle(&unknown(Reason::StoreUnreachable, &self.unreachable(why)), None)
            }
        }
    }

    /// A key that is out: keep the Secret's metadata true, look for the upload, wake at the next instant.
    pub(super) fn published(&self, key: Option<Lifetime>) -> Step {
        let (Some(secret), Some(key)) = (self.own_secret(), key) else {
            // Ours by every mark, yet without the annotations that say until when its key works.
            let message = format!(
                "Secret {} has lost its {} and {} annotations, so nobody knows when its key ends; delete it and a new key is made",
                self.g.secret_name(),
                annotation::ISSUED_AT,
                annotation::EXPIRES_AT
            );
            return self.situation(Reason::SecretConflict, message, false);
        };
        let expiration_seconds = self.asked().unwrap_or(self.g.terms.expiration_seconds);
        let (labels, annotations) = self.metadata(key, expiration_seconds);
        let template_gone = |have: &BTreeMap<String, String>, want: &BTreeMap<String, String>| {
            want.iter().any(|(k, v)| have.get(k) != Some(v))
        };
        if template_gone(&secret.labels, &labels) || template_gone(&secret.annotations, &annotations) {
            let (mut all_labels, mut all_annotations) = (secret.labels.clone(), secret.annotations.clone());
            all_labels.extend(labels);
            all_annotations.extend(annotations);
            return Step::Retouch {
                uid: secret.uid.clone(),
                resource_version: secret.resource_version.clone(),
                labels: all_labels,
                annotations: all_annotations,
            };
        }
        let look = next_look(key.issued_at, self.f.last_look);
        let mut arrival = Arrival::Unchanged;
        if self.is_upload() && matches!(self.f.store, StoreFact::Usable(_)) {
            match &self.f.object {
                ObjectFact::Unread if self.f.look_requested || look <= self.now => return Step::Read(Read::Object),
                ObjectFact::Present { object, modified_at } if self.is_newer(Some(key), *modified_at) => {
                    match self.mismatch(object) {
                        None => return self.completed(Some(key), object),
                        Some(why) if self.write_once() => return self.another_object(&why),
                        // The key can still write the object that is meant.
                        Some(why) => {
                            arrival = Arrival::Differs(format!(
                                "an object came that is not what the grant describes, so not by its key: {why}"
                            ));
                        }
                    }
                }
                ObjectFact::Present { object, .. } if self.write_once() => return self.exists_already(object),
                ObjectFact::Hidden => {
                    let why = "the store refuses HEAD with these credentials: either they may not look, or they are wrong and the key fails, too";
                    arrival = Arrival::Unknown(Reason::NotObservable, why.to_owned());
                }
                ObjectFact::Absent | ObjectFact::Present { .. } => arrival = Arrival::NotYet,
                // A look that failed says nothing; the next one comes by itself.
                ObjectFact::Unread | ObjectFact::Unreachable(_) => {}
            }
        }
        // That the credentials cut the key short shows when it is new; a deadline that is put off later would look
        // the same.
        let status = &self.g.status;
        let told = status.issued_time.as_ref().map(|t| t.0) == Some(key.issued_at)
            && status.expiration_time.as_ref().map(|t| t.0) == Some(key.expires_at);
        let truncated = if told {
            condition(status, "Active").is_some_and(|c| c.reason == Reason::ExpiryTruncated.as_str())
        } else {
            key.is_truncated(expiration_seconds, self.deadline())
        };
        let verb = if self.is_upload() { "uploading" } else { "downloading" };
        let situation = Situation {
            reason: Reason::Issued,
            message: format!(
                "the key for {verb} is in Secret {} until {}",
                self.g.secret_name(),
                key.expires_at
            ),
            key: Some(key),
            active: true,
            truncated,
            arrival,
            finished: false,
        };
        let end = self.end(key);
        let until = if self.is_upload() && look > self.now {
            look.min(end)
        } else {
            end
        };
        self.settle(&situation, Some(until))
    }

    pub(super) fn completed(&self, key: Option<Lifetime>, object: &ObservedObject) -> Step {
        let size = object.size.map_or(String::new(), |s| format!(" of {s} bytes"));
        let situation = Situation {
            reason: Reason::Completed,
            message: format!("the upload{size} is in the store; the key was withdrawn"),
            key,
            active: false,
            truncated: false,
            arrival: Arrival::Seen(object.clone()),
            finished: true,
        };
        // The status first: with the Secret gone and nothing said, the next pass would publish again.
        self.settle(&situation, None)
    }

    /// A write-once upload onto an object that was there before: nothing to do, and no key that could do it.
    pub(super) fn exists_already(&self, object: &ObservedObject) -> Step {
        if let Some(why) = self.mismatch(object) {
            return self.another_object(&why);
        }
        let since = object
            .last_modified_time
            .as_ref()
            .map_or(String::new(), |t| format!(" since {}", t.0));
        let situation = Situation {
            reason: Reason::ObjectExists,
            message: format!(
                "the object is in the store{since}, from before this grant; a write-once upload needs no key for it"
            ),
            key: self.key(),
            active: false,
            truncated: false,
            arrival: Arrival::Seen(object.clone()),
            finished: true,
        };
        self.settle(&situation, None)
    }

    /// An object that is not what the grant describes, and no key that could put the right one there: the store lets a
    /// write-once key write nothing any more, or the key's time is over.
    fn another_object(&self, why: &str) -> Step {
        let message = format!(
            "the object in the store is not what the grant describes: {why}; it was not written with this grant's key: find out who wrote it, and make a new grant"
        );
        let situation = Situation {
            reason: Reason::ObjectMismatch,
            message: message.clone(),
            key: self.key(),
            active: false,
            truncated: false,
            arrival: Arrival::Differs(message),
            finished: true,
        };
        self.settle(&situation, None)
    }

    /// In what the object differs from what the grant describes, if it does.
    fn mismatch(&self, object: &ObservedObject) -> Option<String> {
        match &self.g.ask {
            Ask::Upload(constraints) => mismatch(constraints, object),
            Ask::Download { .. } => None,
        }
    }

    pub(super) fn refuse(&self, reason: Reason, message: String) -> Step {
        self.without_key(reason, message)
    }

    /// No key may be out: look for one, withdraw it, say why.
    pub(super) fn without_key(&self, reason: Reason, message: String) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        // Deleting the Secret takes the key away from those who have not read it. The store knows nothing of it.
        let message = match self.key() {
            Some(key) => format!(
                "{message}; its key was withdrawn, but a copy of it works until {}",
                key.expires_at
            ),
            None => message,
        };
        self.situation(reason, message, false)
    }

    // --- common ends ----------------------------------------------------------------------------------------------

    /// The step that leaves no Secret of this grant's, if one is needed.
    fn withdraw(&self) -> Option<Step> {
        match &self.f.secret {
            SecretFact::Unread => Some(Step::Read(Read::Secret)),
            SecretFact::Present(s) if s.owner == Owner::ThisGrant && !s.deleting => Some(Step::Withdraw {
                uid: s.uid.clone(),
                resource_version: s.resource_version.clone(),
            }),
            _ => None,
        }
    }

    pub(super) fn situation(&self, reason: Reason, message: String, finished: bool) -> Step {
        let situation = Situation {
            reason,
            message,
            key: self.key(),
            active: false,
            truncated: false,
            arrival: Arrival::Unchanged,
            finished,
        };
        // What waits asks again by itself; what is refused waits for a change, or for the end of a key that it had.
        let retry = match reason {
            Reason::SecretConflict => Some(add(self.now, CONFLICT_PAUSE)),
            _ => (reason.progress() == Progress::InProgress).then(|| self.retry()),
        };
        let end = self.key().map(|key| self.end(key)).filter(|end| *end > self.now);
        self.settle(&situation, retry.into_iter().chain(end).min())
    }

    /// Reports the situation if that says anything new; otherwise rests.
    pub(super) fn settle(&self, situation: &Situation, until: Option<Timestamp>) -> Step {
        let status = project(self.g, situation, self.asked(), self.now);
        if status == self.g.status {
            return Step::Rest { until };
        }
        let notice = self.notice(situation);
        Step::Report {
            status: Box::new(status),
            notice,
        }
    }

    /// An event, where a person must act and has not been told.
    fn notice(&self, s: &Situation) -> Option<Notice> {
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

    fn retry(&self) -> Timestamp {
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

    /// Whether an object of that time came after the key was issued. Stores keep whole seconds, so the second that
    /// both lie in is given to the upload.
    fn is_newer(&self, key: Option<Lifetime>, modified_at: Option<Timestamp>) -> bool {
        match (key, modified_at) {
            (Some(key), Some(t)) => add(t, SignedDuration::from_secs(1)) >= key.issued_at,
            // A store that does not say when: write-once says that there was none before.
            (Some(_), None) => self.write_once(),
            (None, _) => false,
        }
    }
}
