//! The rows of the table of states: each method is one situation, and names the step that is missing for it or, if
//! none is, reports it and rests.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::{Judge, Record},
    facts::{ObjectFact, Owner, SecretFact, StoreFact},
    lifetime::{LOOK_PATIENCE, Lifetime, add, late_look, next_look},
    multipart::{Cleaning, Gathered},
    object::mismatch,
    policy::{Refusal, admit},
    status::{Arrival, Situation, condition},
    step::{Read, Step},
};
use crate::api::{Ask, ObservedObject, Reason, annotation};

/// How long the Secret of a deleted grant of the same name may take to be collected before it counts as a conflict.
const PREDECESSOR_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// Why an upload of whatever lies below a key is never seen to be complete.
const NO_ONE_OBJECT: &str = "the grant is for everything below its key, so there is no one object to look for";

/// What is to be done about an upload that may still be on its way.
enum Late {
    /// This.
    Next(Box<Step>),
    /// A look at that time.
    At(Timestamp),
    /// Nothing any more.
    Never,
}

impl Judge<'_> {
    /// Done: no Secret, a true observedGeneration, and collection when its time has come.
    pub(super) fn finish(&self, reason: Reason, finished: Timestamp) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let ready = condition(&self.g.status, "Ready");
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
            return Step::Collect;
        }
        self.settle(&situation, until.into_iter().chain(again).chain(late).min())
    }

    /// Looks for an upload that was on its way when the key ended: stores hold the beginning of a request against that end. What
    /// is seen so is no other key and no other right, only the truth about the one that there was.
    fn late(&self, finished: Timestamp) -> Late {
        // Of an upload in parts nothing can come any more: it is aborted.
        if self.is_in_parts() || !self.awaits_object() || self.key().is_none() {
            return Late::Never;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(self.key(), *modified_at) && self.mismatch(object).is_none() =>
            {
                let message = "the upload is in the store; it was complete only after the key's end".to_owned();
                let situation = Situation {
                    arrival: Arrival::Seen(object.clone()),
                    finished: true,
                    ..Situation::of(Reason::Completed, message, self.key())
                };
                return Late::Next(Box::new(self.settle(&situation, None)));
            }
            _ => {}
        }
        let Some(look) = late_look(finished, self.f.last_look, self.now) else {
            return Late::Never;
        };
        match (&self.f.object, &self.f.store) {
            _ if look > self.now => Late::At(look),
            (ObjectFact::Unread, StoreFact::Unread) => Late::Next(Box::new(Step::Read(Read::Store))),
            (ObjectFact::Unread, StoreFact::Usable(_)) => match self.access() {
                Ok(access) => Late::Next(Box::new(Step::Read(Read::Object(access)))),
                Err(_) => Late::Never,
            },
            // A store in trouble is asked again when the next look is due.
            _ => late_look(finished, Some(self.now), self.now).map_or(Late::Never, Late::At),
        }
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
        let deadline = self.deadline().unwrap_or(self.now);
        let end = self.over_at(key).unwrap_or(deadline);
        let said = match key {
            // The next one would not have been worth it, or would not have been allowed.
            Some(key)
                if key.is_over(self.now)
                    && self.total_end().is_some_and(|end| end <= deadline)
                    && self.g.terms.renews() =>
            {
                format!("the key expired at {}; {}", key.expires_at, self.said_of_total())
            }
            Some(key) if key.is_over(self.now) => format!("the key expired at {}", key.expires_at),
            Some(key) => format!(
                "spec.deadlineTime {deadline} has passed; the key was withdrawn, but a copy of it works until {}",
                key.expires_at
            ),
            None => format!("spec.deadlineTime {deadline} has passed; no key was issued"),
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
                // Whether it is over by the store's clock, too: nothing is asked of the store itself.
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
            situation(
                Reason::Expired,
                format!("{said}; whether something was uploaded is not known: {why}"),
                arrival,
                true,
            )
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
            // Of a key that could be used again and again: the last look has no news, or does not come about.
            object if self.was_seen() && !self.can_look(object) => {
                let message = format!("{said}; status.object is the last upload that was seen");
                self.settle(&situation(Reason::Completed, message, Arrival::Unchanged, true), None)
            }
            ObjectFact::Unread => match (&self.f.store, self.access()) {
                (StoreFact::Usable(_), Ok(access)) => Step::Read(Read::Object(access)),
                (StoreFact::Unread, _) => Step::Read(Read::Store),
                (StoreFact::Missing, _) => {
                    self.settle(&unknown(Reason::StoreNotFound, "the store was deleted"), None)
                }
                (StoreFact::Unusable { reason, message }, Ok(_))
                    if *reason == Reason::ClockSkewed || self.now < add(end, LOOK_PATIENCE) =>
                {
                    let s = situation(
                        *reason,
                        format!("{said}; waiting for a last look at the store: {message}"),
                        Arrival::Unchanged,
                        false,
                    );
                    self.settle(&s, Some(self.retry()))
                }
                (StoreFact::Unusable { reason, message }, Ok(_)) => self.settle(&unknown(*reason, message), None),
                // What the rules do not allow is not asked.
                (StoreFact::Usable(_) | StoreFact::Unusable { .. }, Err(refusal)) => {
                    let why = format!(
                        "the store was not asked, since its rules do not allow it: {}",
                        refusal.message
                    );
                    self.settle(&unknown(refusal.reason, &why), None)
                }
            },
            // A grant that was applied again after its time: its object came long ago, by whatever way.
            ObjectFact::Present { object, .. } if key.is_none() => self.there_anyway(object, &said),
            ObjectFact::Present { object, .. } if self.write_once() => self.exists_already(object),
            ObjectFact::Absent | ObjectFact::Present { .. } | ObjectFact::Hidden
                if let Some(step) = self.over_too_early(end, &said, key) =>
            {
                step
            }
            ObjectFact::ClockSkewed(why) => {
                let message = format!("{said}; waiting for a last look whether the upload arrived: {why}");
                self.settle(
                    &situation(Reason::ClockSkewed, message, Arrival::Unchanged, false),
                    Some(self.retry()),
                )
            }
            ObjectFact::Absent | ObjectFact::Present { .. } => {
                let message = format!("{said} and {}; make a new grant", self.what_came());
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

    /// By the store's clock it is not over yet: what would be said for good may be wrong.
    fn over_too_early(&self, end: Timestamp, said: &str, key: Option<Lifetime>) -> Option<Step> {
        let (until, why) = self.ends_later_at_store(end)?;
        let message = format!("{said} by the operator's clock; {why}");
        let situation = Situation::of(Reason::ClockSkewed, message, key);
        Some(self.settle(&situation, Some(until.min(self.retry()))))
    }

    /// A key that is out: keep the Secret's metadata true, look for the upload, wake at the next instant.
    ///
    /// `trouble` is why a key that is to be replaced is not, if so.
    pub(super) fn published(&self, key: Option<Lifetime>, trouble: Option<&str>) -> Step {
        let access = match &self.f.store {
            StoreFact::Usable(_) => self.access().ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread => None,
        };
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
        // All of it was right when it was last written for this spec.
        let is_repair = secret.generation == Some(self.g.generation);
        let repair_due = self.f.repairs.due(self.now).filter(|_| differs && is_repair);
        if differs && repair_due.is_none() {
            let (mut all_labels, mut all_annotations) = (secret.labels.clone(), secret.annotations.clone());
            all_labels.extend(labels);
            all_annotations.extend(annotations);
            return Step::Retouch {
                uid: secret.uid.clone(),
                resource_version: secret.resource_version.clone(),
                labels: all_labels,
                annotations: all_annotations,
                is_repair,
            };
        }
        // A key that follows another one goes on in the rhythm of the first.
        // A look that is still to come was before the clock was set back.
        let last_look = self.f.last_look.filter(|last| *last <= self.now);
        let look = next_look(self.began(key), last_look);
        let mut arrival = Arrival::Unchanged;
        let gathered = match &access {
            Some(access) if self.is_in_parts() => self.gather(access, self.f.look_requested || look <= self.now),
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
                ObjectFact::Unread if self.f.look_requested || look <= self.now => {
                    return Step::Read(Read::Object(access));
                }
                ObjectFact::Present { object, modified_at } if self.is_newer(Some(key), *modified_at) => {
                    match self.mismatch(object) {
                        // A key that goes on stays for the next upload.
                        None if self.is_standing() => arrival = Arrival::Seen(object.clone()),
                        None => return self.completed(Some(key), object),
                        Some(why) if self.write_once() => return self.another_object(&why),
                        // What was seen before was an upload, whatever has taken its place.
                        Some(_) if self.was_seen() => {}
                        // The key can still write the object that is meant.
                        Some(why) => {
                            arrival = Arrival::Differs(format!(
                                "an object came that is not what the grant describes, so not by its key: {why}"
                            ));
                        }
                    }
                }
                ObjectFact::Present { object, .. } if self.write_once() => return self.exists_already(object),
                _ if self.was_seen() => {}
                ObjectFact::Hidden => {
                    let why = "the store refuses HEAD with these credentials: either they may not look, or they are wrong and the key fails, too";
                    arrival = Arrival::Unknown(Reason::NotObservable, why.to_owned());
                }
                ObjectFact::ClockSkewed(why) => arrival = Arrival::Unknown(Reason::ClockSkewed, why.clone()),
                ObjectFact::Absent | ObjectFact::Present { .. } if self.is_in_parts() => return self.aborted(),
                ObjectFact::Absent | ObjectFact::Present { .. } => arrival = Arrival::NotYet,
                // A look that failed says nothing; the next one comes by itself.
                ObjectFact::Unread | ObjectFact::Unreachable(_) => {}
            }
        }
        // That the credentials cut the key short shows when it is new; a deadline that is put off later would look
        // the same.
        let truncated = if self.is_reported(key) {
            condition(&self.g.status, "Active").is_some_and(|c| c.reason == Reason::ExpiryTruncated.as_str())
        } else {
            key.is_truncated(asked.unwrap_or_default(), self.deadline())
        };
        let verb = if self.is_upload() { "uploading" } else { "downloading" };
        let name = self.g.secret_name();
        let so_often = if self.is_upload() && !self.awaits_object() {
            "; it writes any number of objects below spec.key"
        } else {
            ""
        };
        let renewal = self.renewal_at(key);
        let situation = Situation {
            active: true,
            truncated,
            arrival,
            renewal,
            renewal_failing: self.renewal_failing(key, trouble),
            ..Situation::of(
                Reason::Issued,
                format!(
                    "the key for {verb} is in Secret {name} until {}{so_often}",
                    key.expires_at
                ),
                Some(key),
            )
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
            Some(0) => "the upload is empty: the object in the store has 0 bytes; the key was withdrawn. If that was not meant, make a new grant and upload again".to_owned(),
            Some(size) => format!("the upload of {size} bytes is in the store; the key was withdrawn"),
            None => "the upload is in the store; the key was withdrawn".to_owned(),
        };
        let situation = Situation {
            arrival: Arrival::Seen(object.clone()),
            finished: true,
            ..Situation::of(Reason::Completed, message, key)
        };
        // The status first: with the Secret gone and nothing said, the next pass would publish again.
        self.settle(&situation, None)
    }

    /// The deadline of a grant has passed that never had a key, and that the store or its rules do not allow. It ends as what
    /// it is, and nothing is asked that the rules do not allow.
    fn refused_to_the_end(&self, said: &str) -> Option<Step> {
        let refusal = match &self.f.store {
            StoreFact::Unread => return Some(Step::Read(Read::Store)),
            StoreFact::Usable(store) => admit(self.g, store).err()?,
            StoreFact::Missing | StoreFact::Unusable { .. } => self.access().err()?,
        };
        // Where only the store's abilities are in the way, the object may be there all the same.
        if self.awaits_object() && matches!(self.f.store, StoreFact::Usable(_)) && self.access().is_ok() {
            return None;
        }
        let why = format!(
            "the store was not asked, since it does not allow this grant: {}",
            refusal.message
        );
        let situation = Situation {
            arrival: Arrival::Unknown(refusal.reason, why),
            finished: true,
            ..Situation::of(Reason::ExpiredUnused, format!("{said}: {}", refusal.message), None)
        };
        Some(self.settle(&situation, None))
    }

    /// A write-once upload onto an object that was there before: nothing to do, and no key that could do it.
    pub(super) fn exists_already(&self, object: &ObservedObject) -> Step {
        self.exists(object, |since| {
            format!(
                "the object is in the store{since}, from before this grant; a write-once upload needs no key for it"
            )
        })
    }

    /// An object that is there although the grant never had a key.
    fn there_anyway(&self, object: &ObservedObject, said: &str) -> Step {
        self.exists(object, |since| format!("{said}; the object is in the store{since}"))
    }

    fn exists(&self, object: &ObservedObject, message: impl FnOnce(String) -> String) -> Step {
        if let Some(why) = self.mismatch(object) {
            return self.another_object(&why);
        }
        let since = object
            .last_modified_time
            .as_ref()
            .map_or(String::new(), |t| format!(" since {}", t.0));
        let message = message(since);
        let situation = Situation {
            arrival: Arrival::Seen(object.clone()),
            finished: true,
            ..Situation::of(Reason::ObjectExists, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// An object that is not what the grant describes, and no key that could put the right one there: the store lets a
    /// write-once key write nothing any more, or the key's time is over.
    pub(super) fn another_object(&self, why: &str) -> Step {
        let message = format!(
            "the object in the store is not what the grant describes: {why}; it was not written with this grant's key: find out who wrote it, and make a new grant"
        );
        let situation = Situation {
            arrival: Arrival::Differs(message.clone()),
            finished: true,
            ..Situation::of(Reason::ObjectMismatch, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// In what the object differs from what the grant describes, if it does.
    pub(super) fn mismatch(&self, object: &ObservedObject) -> Option<String> {
        match &self.g.ask {
            Ask::Upload { constraints, .. } => mismatch(constraints, object),
            Ask::Download { .. } => None,
        }
    }

    /// What the store or its rules do not allow: no key may be out.
    pub(super) fn refuse(&self, refusal: Refusal) -> Step {
        self.without_key(refusal.reason, refusal.message)
    }

    /// No key may be out: look for one, withdraw it, say why.
    pub(super) fn without_key(&self, reason: Reason, message: String) -> Step {
        if let Some(step) = self.withdraw().or_else(|| self.abandon_upload(reason)) {
            return step;
        }
        // Deleting the Secret takes the key away from those who have not read it. The store knows nothing of it.
        let message = match self.copies_until(self.key()) {
            Some(end) if end > self.now => {
                format!("{message}; its key was withdrawn, but a copy of it works until {end}")
            }
            Some(end) => format!("{message}; its last key ended at {end}"),
            None => message,
        };
        self.situation(reason, message, false)
    }
}
