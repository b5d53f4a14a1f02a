//! Finishes grants whose object is in the store, and handles finished grants.

use jiff::{SignedDuration, Timestamp};

use super::{
    evaluator::Evaluator,
    multipart_cleanup::Cleanup,
    status::{Arrival, Situation, condition},
};
use crate::{
    api::{ConditionType, ObservedObject, OperationSpec, Reason},
    core::{
        facts::{ObjectFact, StoreFact},
        lifetime::{Lifetime, add, late_poll},
        object::mismatch,
        step::{Read, Step},
    },
};

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
        if let Some(step) = self.delete_secret() {
            return step;
        }
        let ready = condition(&self.g.status, ConditionType::Ready);
        let message = ready
            .map(|c| self.without_blocked(&c.message).to_owned())
            .unwrap_or_default();
        let situation = Situation {
            finished: true,
            ..Situation::of(reason, message, self.credential())
        };
        let ttl = match self.g.terms.retention() {
            Some(own) => own,
            None if self.g.gitops_tool.is_some() => None,
            None => self.f.settings.ttl_seconds_after_finished,
        };
        let until = ttl.map(|seconds| add(finished, SignedDuration::from_secs(seconds)));
        let late = if reason == Reason::ExpiredUnused {
            match self.late(finished) {
                Late::Next(step) => return *step,
                Late::At(poll) => Some(poll),
                Late::Never => None,
            }
        } else {
            None
        };
        let again = match self.clean_up(finished) {
            Cleanup::Next(step) => return step,
            Cleanup::Wait(again) => Some(again),
            Cleanup::Done => None,
        };
        if until.is_some_and(|t| t <= self.now) {
            return Step::DeleteGrant;
        }
        self.settle(&situation, until.into_iter().chain(again).chain(late).min())
    }

    /// Polls for an upload that was still in progress when the credential expired. Such an upload can succeed, because
    /// stores check the expiry only when a request starts. If Valet finds the object, the status reports the upload.
    /// The grant still receives no new credential.
    fn late(&self, finished: Timestamp) -> Late {
        // Valet aborts a multipart upload after the credential expired, so nobody can complete it later.
        if self.is_multipart() || !self.awaits_object() || self.credential().is_none() {
            return Late::Never;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(self.credential(), *modified_at) && self.mismatch(object).is_none() =>
            {
                let message =
                    "the uploaded object is in the store; the upload finished after the credential had expired"
                        .to_owned();
                let situation = Situation {
                    arrival: Arrival::Seen(object.clone()),
                    finished: true,
                    ..Situation::of(Reason::Completed, message, self.credential())
                };
                return Late::Next(Box::new(self.settle(&situation, None)));
            }
            _ => {}
        }
        let Some(poll) = late_poll(finished, self.f.last_poll, self.now) else {
            return Late::Never;
        };
        match (&self.f.object, &self.f.store) {
            _ if poll > self.now => Late::At(poll),
            (ObjectFact::Unread, StoreFact::Unread) => Late::Next(Box::new(Step::Read(Read::Store))),
            (ObjectFact::Unread, StoreFact::Usable(_)) => match self.access() {
                Ok(access) => Late::Next(Box::new(Step::Read(Read::Object(access)))),
                Err(_) => Late::Never,
            },
            // The object is not in the store, or Valet could not read the object. Valet polls again later, until the
            // time limit for such polls ends.
            _ => late_poll(finished, Some(self.now), self.now).map_or(Late::Never, Late::At),
        }
    }

    pub(super) fn completed(&self, credential: Option<Lifetime>, object: &ObservedObject) -> Step {
        let message = match object.size {
            Some(0) => "the uploaded object is empty (0 bytes); the Secret was deleted; if the object should not be empty, create a new grant and upload the object again".to_owned(),
            Some(size) => format!("the uploaded object of {size} bytes is in the store; the Secret was deleted"),
            None => "the uploaded object is in the store; the Secret was deleted".to_owned(),
        };
        let situation = Situation {
            arrival: Arrival::Seen(object.clone()),
            finished: true,
            ..Situation::of(Reason::Completed, message, credential)
        };
        // Valet writes the status before it deletes the Secret. Otherwise the next reconcile would find no Secret and
        // would issue the credential again.
        self.settle(&situation, None)
    }

    /// Finishes a write-once upload whose object existed before the first credential. Such a grant needs no
    /// credential.
    pub(super) fn exists_already(&self, object: &ObservedObject) -> Step {
        let message = "the object already existed before this grant; a write-once upload cannot replace an existing object, so Valet issues no credential";
        self.exists(object, message.to_owned())
    }

    /// Finishes a grant that never had a credential, although its object exists in the store.
    pub(super) fn exists_anyway(&self, object: &ObservedObject, expired_text: &str) -> Step {
        let there = "the object is already in the store";
        self.exists(object, format!("{expired_text}; {there}"))
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
            ..Situation::of(Reason::ObjectExists, message, self.credential())
        };
        self.settle(&situation, None)
    }

    /// Finishes a grant whose object does not match the constraints of the grant. No client can still upload a correct
    /// object with the credential. Either the credential has expired, or the upload is write-once and the store rejects
    /// a second upload.
    pub(super) fn another_object(&self, why: &str) -> Step {
        let message = format!(
            "the object in the store does not match the grant: {why}; another client wrote this object without the grant's credential; find out which client wrote the object, and create a new grant"
        );
        let situation = Situation {
            arrival: Arrival::Differs(message.clone()),
            finished: true,
            ..Situation::of(Reason::ObjectMismatch, message, self.credential())
        };
        self.settle(&situation, None)
    }

    /// Describes how the object differs from the grant's constraints. Returns `None` if the object matches.
    pub(super) fn mismatch(&self, object: &ObservedObject) -> Option<String> {
        match &self.g.operation_spec {
            OperationSpec::Upload { constraints, .. } => mismatch(constraints, object),
            OperationSpec::Download { .. } => None,
        }
    }
}
