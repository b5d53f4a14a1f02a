//! The states of a grant. Each method handles one state. It returns the next step, for example to write the status or
//! to wait until a time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::{Evaluator, Record},
    facts::{ObjectFact, Owner, SecretFact, StoreFact},
    lifetime::{Lifetime, POLL_PATIENCE, add, late_look, next_poll},
    multipart::{Cleaning, Gathered},
    object::mismatch,
    policy::{Refusal, admit},
    status::{Arrival, Situation, condition},
    step::{Read, Step},
};
use crate::api::{Ask, ConditionType, ObservedObject, Reason, annotation};

/// A user deleted a grant and created a new grant with its name. Valet waits 60 seconds until the garbage collector
/// has deleted the Secret of the deleted grant. After that, the status of the new grant reports the Secret as a
/// conflict.
const PREDECESSOR_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// The reason why Valet cannot detect the end of an upload to a prefix.
const NO_ONE_OBJECT: &str =
    "spec.key is a prefix and not the key of one object, so Valet cannot find out when the upload is complete";

/// The result of the check for an upload that may still be in progress after the credential expired.
enum Late {
    /// Valet must execute this step next.
    Next(Box<Step>),
    /// Valet polls the store at this time.
    At(Timestamp),
    /// Valet does not poll the store again for this upload.
    Never,
}

impl Evaluator<'_> {
    /// Handles a finished grant. Valet deletes the grant Secret, updates `observedGeneration` in the status, and
    /// deletes the grant after its TTL.
    pub(super) fn finish(&self, reason: Reason, finished: Timestamp) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let ready = condition(&self.g.status, ConditionType::Ready);
        let message = ready
            .map(|c| self.without_held(&c.message).to_owned())
            .unwrap_or_default();
        let situation = Situation {
            finished: true,
            ..Situation::of(reason, message, self.key())
        };
        let ttl = match self.g.terms.retention() {
            Some(own) => own,
            None if self.g.tracked_by.is_some() => None,
            None => self.f.settings.ttl_seconds_after_finished,
        };
        let until = ttl.map(|seconds| add(finished, SignedDuration::from_secs(seconds)));
        let late = if reason == Reason::ExpiredUnused {
            match self.late(finished) {
                Late::Next(step) => return *step,
                Late::At(look) => Some(look),
                Late::Never => None,
            }
        } else {
            None
        };
        let again = match self.clean(finished) {
            Cleaning::Next(step) => return step,
            Cleaning::Wait(again) => Some(again),
            Cleaning::Done => None,
        };
        if until.is_some_and(|t| t <= self.now) {
            return Step::DeleteGrant;
        }
        self.settle(&situation, until.into_iter().chain(again).chain(late).min())
    }

    /// Polls for an upload that was still in progress when the credential expired. Such an upload can succeed,
    /// because stores check the expiry only when a request starts. If Valet finds the object, it writes this to the
    /// status. The grant still receives no new credential.
    fn late(&self, finished: Timestamp) -> Late {
        // Valet aborts a multipart upload after the credential expired, so nobody can complete it later.
        if self.is_in_parts() || !self.awaits_object() || self.key().is_none() {
            return Late::Never;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(self.key(), *modified_at) && self.mismatch(object).is_none() =>
            {
                let message =
                    "the uploaded object is in the store; the upload finished after the credential had expired"
                        .to_owned();
                let situation = Situation {
                    arrival: Arrival::Seen(object.clone()),
                    finished: true,
                    ..Situation::of(Reason::Completed, message, self.key())
                };
                return Late::Next(Box::new(self.settle(&situation, None)));
            }
            _ => {}
        }
        let Some(look) = late_look(finished, self.f.last_poll, self.now) else {
            return Late::Never;
        };
        match (&self.f.object, &self.f.store) {
            _ if look > self.now => Late::At(look),
            (ObjectFact::Unread, StoreFact::Unread) => Late::Next(Box::new(Step::Read(Read::Store))),
            (ObjectFact::Unread, StoreFact::Usable(_)) => match self.access() {
                Ok(access) => Late::Next(Box::new(Step::Read(Read::Object(access)))),
                Err(_) => Late::Never,
            },
            // The object is not in the store, or Valet could not read the object. Valet polls again at the next time,
            // if there is one.
            _ => late_look(finished, Some(self.now), self.now).map_or(Late::Never, Late::At),
        }
    }

    /// Returns the step for a grant whose Secret name is already used by a Secret with a different owner. Valet never
    /// changes a Secret with a different owner.
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
                let message = format!("Secret {name} belongs to a deleted grant with the same name; Valet waits until Kubernetes deletes this Secret");
                Some(self.situation(Reason::PredecessorSecret, message, false))
            }
            Owner::Predecessor => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} belongs to a deleted grant with the same name, and Kubernetes has not deleted the Secret; delete this Secret, or create a grant with another spec.secretName"),
                false,
            )),
            Owner::Foreign(why) => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} exists and does not belong to this grant ({why}); Valet does not change this Secret; delete the Secret, or create a grant with another spec.secretName"),
                false,
            )),
        }
    }

    /// Handles a grant whose credential has expired, or whose deadline passed before Valet issued a credential.
    pub(super) fn over(&self, key: Option<Lifetime>) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let deadline = self.deadline().unwrap_or(self.now);
        let end = self.over_at(key).unwrap_or(deadline);
        let said = match key {
            // Valet did not renew the credential. Either the access rules do not allow the renewal, or the renewal
            // would have extended the expiry by too little.
            Some(key)
                if key.is_over(self.now)
                    && self.total_end().is_some_and(|end| end <= deadline)
                    && self.g.terms.renews() =>
            {
                format!("the credential expired at {}; {}", key.expires_at, self.said_of_total())
            }
            Some(key) if key.is_over(self.now) => format!("the credential expired at {}", key.expires_at),
            Some(key) => format!(
                "spec.deadlineTime {deadline} has passed; the Secret was deleted, but copies of the credential work until {end}",
                end = key.expires_at
            ),
            None => format!("spec.deadlineTime {deadline} has passed; no credential was issued"),
        };
        if key.is_none()
            && let Some(step) = self.refused_to_the_end(&said)
        {
            return step;
        }
        let situation = |reason, message, arrival, finished| Situation {
            arrival,
            finished,
            ..Situation::of(reason, message, key)
        };
        if !self.is_upload() {
            match &self.f.store {
                // The store's clock may be behind, and the credential may then still be valid for the store. Valet
                // therefore needs the clock difference. This step reads the store resource and sends no request to
                // the store.
                StoreFact::Unread if key.is_some() => return Step::Read(Read::Store),
                StoreFact::Unusable {
                    reason: Reason::ClockSkewed,
                    message,
                } => {
                    let message = format!("{said} by the operator's clock; {message}");
                    let waits = situation(Reason::ClockSkewed, message, Arrival::Unchanged, false);
                    return self.settle(&waits, Some(self.retry()));
                }
                _ => {}
            }
            if let Some(step) = self.over_too_early(end, &said, key) {
                return step;
            }
            return self.settle(&situation(Reason::Expired, said, Arrival::Unchanged, true), None);
        }
        let unknown = |reason, why: &str| {
            let arrival = Arrival::Unknown(reason, why.to_owned());
            let unknown = format!("Valet does not know whether an object was uploaded: {why}");
            situation(Reason::Expired, format!("{said}; {unknown}"), arrival, true)
        };
        if !self.awaits_object() {
            return self.settle(&unknown(Reason::NotObservable, NO_ONE_OBJECT), None);
        }
        if let Some(step) = self.last_parts(key, &said) {
            return step;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(key, *modified_at) && (self.mismatch(object).is_none() || !self.was_seen()) =>
            {
                match self.mismatch(object) {
                    Some(why) => self.another_object(&why),
                    None => self.completed(key, object),
                }
            }
            // Valet saw an upload of this grant earlier, and the credential allows several uploads. The last poll
            // found no new upload, or Valet could not poll.
            object if self.was_seen() && !self.can_look(object) => {
                let last = "status.object describes the last upload that Valet saw";
                let message = format!("{said}; {last}");
                self.settle(&situation(Reason::Completed, message, Arrival::Unchanged, true), None)
            }
            ObjectFact::Unread => match (&self.f.store, self.access()) {
                (StoreFact::Usable(_), Ok(access)) => Step::Read(Read::Object(access)),
                (StoreFact::Unread, _) => Step::Read(Read::Store),
                (StoreFact::Missing, _) => {
                    self.settle(&unknown(Reason::StoreNotFound, "the store was deleted"), None)
                }
                (StoreFact::Unusable { reason, message }, Ok(_))
                    if *reason == Reason::ClockSkewed || self.now < add(end, POLL_PATIENCE) =>
                {
                    let waits = format!("Valet waits for a last check of the store: {message}");
                    let s = situation(*reason, format!("{said}; {waits}"), Arrival::Unchanged, false);
                    self.settle(&s, Some(self.retry()))
                }
                (StoreFact::Unusable { reason, message }, Ok(_)) => self.settle(&unknown(*reason, message), None),
                // The access rules do not allow the grant, so Valet sends no request to the store.
                (StoreFact::Usable(_) | StoreFact::Unusable { .. }, Err(refusal)) => {
                    let why = format!(
                        "Valet sent no request to the store, because the store's access rules do not allow the grant: {message}",
                        message = refusal.message
                    );
                    self.settle(&unknown(refusal.reason, &why), None)
                }
            },
            // A user applied the grant again after its deadline, and the object is already in the store.
            ObjectFact::Present { object, .. } if key.is_none() => self.there_anyway(object, &said),
            ObjectFact::Present { object, .. } if self.write_once() => self.exists_already(object),
            ObjectFact::Absent | ObjectFact::Present { .. } | ObjectFact::Hidden
                if let Some(step) = self.over_too_early(end, &said, key) =>
            {
                step
            }
            ObjectFact::ClockSkewed(why) => {
                let waits = format!("Valet waits for a last check whether the upload has arrived: {why}");
                self.settle(
                    &situation(
                        Reason::ClockSkewed,
                        format!("{said}; {waits}"),
                        Arrival::Unchanged,
                        false,
                    ),
                    Some(self.retry()),
                )
            }
            ObjectFact::Absent | ObjectFact::Present { .. } => {
                let outcome = self.what_came();
                let message = format!("{said}; {outcome}; create a new grant");
                self.settle(&situation(Reason::ExpiredUnused, message, Arrival::NotYet, true), None)
            }
            ObjectFact::Hidden => self.settle(
                &unknown(
                    Reason::NotObservable,
                    "the store's credentials are not allowed to read the object (the store refused a HEAD request)",
                ),
                None,
            ),
            ObjectFact::Unreachable(why) if self.now < add(end, POLL_PATIENCE) => {
                let waits = format!(
                    "Valet waits for a last check whether the upload has arrived: {why}",
                    why = self.unreachable(why)
                );
                self.settle(
                    &situation(
                        Reason::StoreUnreachable,
                        format!("{said}; {waits}"),
                        Arrival::Unchanged,
                        false,
                    ),
                    Some(self.retry()),
                )
            }
            ObjectFact::Unreachable(why) => {
                self.settle(&unknown(Reason::StoreUnreachable, &self.unreachable(why)), None)
            }
        }
    }

    /// Returns a step that waits, if the store's clock has not reached the expiry of the credential. The credential
    /// may still be valid for the store, so a final status could be wrong.
    fn over_too_early(&self, end: Timestamp, said: &str, key: Option<Lifetime>) -> Option<Step> {
        let (until, why) = self.ends_later_at_store(end)?;
        let message = format!("{said} by the operator's clock; {why}");
        let situation = Situation::of(Reason::ClockSkewed, message, key);
        Some(self.settle(&situation, Some(until.min(self.retry()))))
    }

    /// Handles a published credential: Valet corrects the Secret's metadata, polls for the upload, and then waits
    /// until the next poll or the expiry.
    ///
    /// `trouble` is the reason why Valet cannot replace the credential, if a replacement is due.
    pub(super) fn published(&self, key: Option<Lifetime>, trouble: Option<&str>) -> Step {
        let access = match &self.f.store {
            StoreFact::Usable(_) => self.access().ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread => None,
        };
        let (Some(secret), Some(key)) = (self.own_secret(), key) else {
            // The Secret belongs to this grant, but the annotations with the times of its credential are missing.
            let message = format!(
                "Secret {name} no longer has the annotations {issued_at} and {expires_at}, so Valet does not know when the credential expires; delete this Secret, and Valet issues a new credential",
                name = self.g.secret_name(),
                issued_at = annotation::ISSUED_AT,
                expires_at = annotation::EXPIRES_AT
            );
            return self.situation(Reason::SecretConflict, message, false);
        };
        let asked = self.asked().or(Some(self.g.terms.expiration_seconds));
        let (labels, annotations) = self.metadata(&Record {
            expiration_seconds: asked,
            ..self.record(key)
        });
        let template_gone = |have: &BTreeMap<String, String>, want: &BTreeMap<String, String>| {
            want.iter().any(|(k, v)| have.get(k) != Some(v))
        };
        let differs = template_gone(&secret.labels, &labels)
            || template_gone(&secret.annotations, &annotations)
            || !secret.has_sole_owner;
        // Valet has already written the correct metadata for this generation of the grant. If the metadata is now
        // different, a client other than Valet has changed it.
        let is_repair = secret.generation == Some(self.g.generation);
        let repair_due = self.f.repairs.due(self.now).filter(|_| differs && is_repair);
        if differs && repair_due.is_none() {
            let (mut all_labels, mut all_annotations) = (secret.labels.clone(), secret.annotations.clone());
            all_labels.extend(labels);
            all_annotations.extend(annotations);
            return Step::UpdateMetadata {
                uid: secret.uid.clone(),
                resource_version: secret.resource_version.clone(),
                labels: all_labels,
                annotations: all_annotations,
                is_repair,
            };
        }
        // The pauses between polls count from the first credential of the grant. If the time of the last poll is in
        // the future, somebody set the clock back. Valet ignores such a poll.
        let last_poll = self.f.last_poll.filter(|last| *last <= self.now);
        let look = next_poll(self.began(key), last_poll);
        // The status records the credential before the poll. The poll can have to wait for the store, and without the
        // record Valet would issue another credential if a client deleted the Secret in the meantime.
        let is_due = self.is_reported(key) && (self.f.poll_requested || look <= self.now);
        let mut arrival = Arrival::Unchanged;
        let gathered = match &access {
            Some(access) if self.is_in_parts() => self.gather(access, is_due),
            _ => Gathered::Over,
        };
        if let Gathered::Next(step) = gathered {
            return step;
        }
        if let Gathered::Waiting(so_far) = gathered {
            arrival = so_far;
        } else if self.is_upload() && !self.awaits_object() {
            arrival = Arrival::Unknown(Reason::NotObservable, NO_ONE_OBJECT.to_owned());
        } else if self.awaits_object()
            && let Some(access) = access
        {
            match &self.f.object {
                ObjectFact::Unread if is_due => {
                    return Step::Read(Read::Object(access));
                }
                ObjectFact::Present { object, modified_at } if self.is_newer(Some(key), *modified_at) => {
                    match self.mismatch(object) {
                        // Valet renews the credential of this grant, so the holder can upload the object again.
                        None if self.is_standing() => arrival = Arrival::Seen(object.clone()),
                        None => return self.completed(Some(key), object),
                        Some(why) if self.write_once() => return self.another_object(&why),
                        // Valet already saw a correct upload of this grant. Later, somebody replaced the object with
                        // an object that does not match the grant.
                        Some(_) if self.was_seen() => {}
                        // The object does not match, but the holder of the credential can still upload the correct
                        // object.
                        Some(why) => {
                            arrival = Arrival::Differs(format!(
                                "the object in the store does not match the grant and was not uploaded with this credential: {why}"
                            ));
                        }
                    }
                }
                ObjectFact::Present { object, .. } if self.write_once() => return self.exists_already(object),
                _ if self.was_seen() => {}
                ObjectFact::Hidden => {
                    let why = "the store refuses HEAD requests, because the store's credentials are not allowed to read the object or are invalid; with invalid credentials, uploads also fail";
                    arrival = Arrival::Unknown(Reason::NotObservable, why.to_owned());
                }
                ObjectFact::ClockSkewed(why) => arrival = Arrival::Unknown(Reason::ClockSkewed, why.clone()),
                ObjectFact::Absent | ObjectFact::Present { .. } if self.is_in_parts() => return self.aborted(),
                ObjectFact::Absent | ObjectFact::Present { .. } => arrival = Arrival::NotYet,
                // After a failed poll, Valet does not know if the object exists. It polls again after the usual
                // pause.
                ObjectFact::Unread | ObjectFact::Unreachable(_) => {}
            }
        }
        // Valet checks only for a new credential if the expiry is earlier than requested. For an old credential, this
        // check could be wrong. For example, a user moved the deadline to a later time after the credential was
        // signed.
        let truncated = if self.is_reported(key) {
            condition(&self.g.status, ConditionType::Active)
                .is_some_and(|c| c.reason == Reason::ExpiryTruncated.as_str())
        } else {
            key.is_truncated(asked.unwrap_or_default(), self.deadline())
        };
        let operation = if self.is_upload() { "upload" } else { "download" };
        let name = self.g.secret_name();
        let end = key.expires_at;
        let mut message = format!("the {operation} credential is in Secret {name} until {end}");
        if self.is_upload() && !self.awaits_object() {
            let extent = "the credential allows any number of objects with the prefix in spec.key";
            message = format!("{message}; {extent}");
        }
        let renewal = self.renewal_at(key);
        let situation = Situation {
            active: true,
            truncated,
            arrival,
            renewal,
            renewal_failing: self.renewal_failing(key, trouble),
            ..Situation::of(Reason::Issued, message, Some(key))
        };
        let retry = trouble.map(|_| self.retry_renewal(key));
        let anew = self.anew_at(secret, key);
        let timers = [
            Some(self.end(key)),
            retry,
            renewal,
            anew,
            repair_due,
            self.awaits_object().then_some(look),
        ];
        self.settle(&situation, timers.into_iter().flatten().filter(|t| *t > self.now).min())
    }

    pub(super) fn completed(&self, key: Option<Lifetime>, object: &ObservedObject) -> Step {
        let message = match object.size {
            Some(0) => "the uploaded object is empty (0 bytes); the Secret was deleted; if the object should not be empty, create a new grant and upload the object again".to_owned(),
            Some(size) => format!("the uploaded object of {size} bytes is in the store; the Secret was deleted"),
            None => "the uploaded object is in the store; the Secret was deleted".to_owned(),
        };
        let situation = Situation {
            arrival: Arrival::Seen(object.clone()),
            finished: true,
            ..Situation::of(Reason::Completed, message, key)
        };
        // Valet writes the status before it deletes the Secret. Otherwise the next reconcile would find no Secret and
        // would issue the credential again.
        self.settle(&situation, None)
    }

    /// Handles a grant that passed its deadline without a credential, because Valet refused the grant until then. The
    /// grant finishes with the reason of this refusal. Valet sends no request that the access rules forbid.
    fn refused_to_the_end(&self, said: &str) -> Option<Step> {
        let refusal = match &self.f.store {
            StoreFact::Unread => return Some(Step::Read(Read::Store)),
            StoreFact::Usable(store) => admit(self.g, store).err()?,
            StoreFact::Missing | StoreFact::Unusable { .. } => self.access().err()?,
        };
        // The access rules allow the grant, and only a capability of the store is missing. The object may exist, so
        // Valet checks if it exists.
        if self.awaits_object() && matches!(self.f.store, StoreFact::Usable(_)) && self.access().is_ok() {
            return None;
        }
        let why = format!(
            "Valet sent no request to the store, because the store does not allow the grant: {message}",
            message = refusal.message
        );
        let situation = Situation {
            arrival: Arrival::Unknown(refusal.reason, why),
            finished: true,
            ..Situation::of(Reason::ExpiredUnused, format!("{said}: {}", refusal.message), None)
        };
        Some(self.settle(&situation, None))
    }

    /// Finishes a write-once upload whose object existed before the first credential. Such a grant needs no
    /// credential.
    pub(super) fn exists_already(&self, object: &ObservedObject) -> Step {
        let message = "the object already existed before this grant; a write-once upload cannot replace an existing object, so Valet issues no credential";
        self.exists(object, message.to_owned())
    }

    /// Finishes a grant that never had a credential, but whose object exists in the store.
    fn there_anyway(&self, object: &ObservedObject, said: &str) -> Step {
        let there = "the object is already in the store";
        self.exists(object, format!("{said}; {there}"))
    }

    fn exists(&self, object: &ObservedObject, mut message: String) -> Step {
        if let Some(why) = self.mismatch(object) {
            return self.another_object(&why);
        }
        if let Some(time) = object.last_modified_time.as_ref().map(|t| t.0) {
            let modified = format!("the object was last modified at {time}");
            message = format!("{message}; {modified}");
        }
        let situation = Situation {
            arrival: Arrival::Seen(object.clone()),
            finished: true,
            ..Situation::of(Reason::ObjectExists, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// Finishes a grant whose object does not match the grant, if no client can upload a correct object with the
    /// credential. Either the credential has expired, or the upload is write-once and the store rejects a second
    /// upload.
    pub(super) fn another_object(&self, why: &str) -> Step {
        let message = format!(
            "the object in the store does not match the grant: {why}; another client wrote this object without the grant's credential; find out which client wrote the object, and create a new grant"
        );
        let situation = Situation {
            arrival: Arrival::Differs(message.clone()),
            finished: true,
            ..Situation::of(Reason::ObjectMismatch, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// Describes how the object differs from the grant's constraints. Returns `None` if the object matches.
    pub(super) fn mismatch(&self, object: &ObservedObject) -> Option<String> {
        match &self.g.ask {
            Ask::Upload { constraints, .. } => mismatch(constraints, object),
            Ask::Download { .. } => None,
        }
    }

    /// Returns the next step for a refused grant: Valet deletes the grant Secret if it exists, and writes the refusal
    /// to the status.
    pub(super) fn refuse(&self, refusal: Refusal) -> Step {
        self.without_key(refusal.reason, refusal.message)
    }

    /// Returns the next step for a grant that must have no credential. Valet deletes the grant Secret if it exists,
    /// and writes the reason to the status.
    pub(super) fn without_key(&self, reason: Reason, message: String) -> Step {
        if let Some(step) = self.withdraw().or_else(|| self.abandon_upload(reason)) {
            return step;
        }
        // A user who read the Secret before Valet deleted it can still have a copy of the credential. The store
        // accepts this copy until the credential expires.
        let message = match self.copies_until(self.key()) {
            Some(end) if end > self.now => {
                let copies = format!("the Secret was deleted, but copies of the credential work until {end}");
                format!("{message}; {copies}")
            }
            Some(end) => {
                let expired = format!("the last credential expired at {end}");
                format!("{message}; {expired}")
            }
            None => message,
        };
        self.situation(reason, message, false)
    }
}
