//! Handles the multipart upload of a grant until it is completed. Valet completes the upload when all parts have
//! arrived.

use jiff::{SignedDuration, Timestamp};

use super::{
    evaluator::Evaluator,
    multipart_assembly::{Assembled, assemble},
    status::{Arrival, Situation},
};
use crate::{
    api::{Reason, annotation},
    core::{
        facts::{ObjectFact, StoreFact, UploadFact},
        lifetime::{Lifetime, POLL_PATIENCE, add},
        multipart_upload::{ArrivedPart, Assembly},
        policy::{Access, admit},
        step::{Read, Step},
    },
};

/// For up to 10 seconds after a store completes a multipart upload, the store can still list this upload. During
/// these seconds, the new object can already exist.
const SETTLING: SignedDuration = SignedDuration::from_secs(10);

/// The result of the check of a multipart upload whose credential is still valid.
pub(super) enum PartsProgress {
    /// Valet must execute this step next.
    Next(Step),
    /// Valet waits for more parts or for the next poll. The value says what the condition `Completed` reports.
    Waiting(Arrival),
    /// The multipart upload no longer exists. Valet must check the object, because only the object shows if the
    /// upload was completed.
    Ended,
}

impl Evaluator<'_> {
    /// Handles a multipart upload whose credential is still valid. Valet lists the parts when a poll is due, and
    /// completes the upload when all parts have arrived.
    pub(super) fn check_parts(&self, access: &Access, is_time: bool) -> PartsProgress {
        let Some(upload) = self.upload_id() else {
            return PartsProgress::Waiting(Arrival::Flawed(format!(
                "Secret {name} no longer has the annotation {annotation}, so Valet cannot find the uploaded parts; delete this Secret, and Valet issues a new credential",
                name = self.g.secret_name(),
                annotation = annotation::UPLOAD_ID
            )));
        };
        match &self.f.upload {
            UploadFact::Unread
                if is_time || self.f.completion_refused.is_some() || !matches!(self.f.object, ObjectFact::Unread) =>
            {
                PartsProgress::Next(Step::Read(Read::Upload(access.clone(), upload.to_owned())))
            }
            // A failed poll does not tell Valet which parts have arrived. Valet polls again after the usual pause.
            UploadFact::Unread | UploadFact::Unreachable(_) => PartsProgress::Waiting(Arrival::Unchanged),
            UploadFact::Open(arrived) => match self.assembled(arrived) {
                Assembled::Waiting => PartsProgress::Waiting(Arrival::NotYet),
                Assembled::Flawed(why) => PartsProgress::Waiting(Arrival::Flawed(why)),
                Assembled::Whole(parts) => self.complete(access, upload, parts),
            },
            UploadFact::Gone | UploadFact::Aborted { .. } if matches!(self.f.object, ObjectFact::Unread) => {
                PartsProgress::Next(Step::Read(Read::Object(access.clone())))
            }
            UploadFact::Gone | UploadFact::Aborted { .. } => PartsProgress::Ended,
            UploadFact::Hidden => {
                let why = "the store's credentials are not allowed to list uploaded parts (s3:ListMultipartUploadParts), so Valet cannot complete the multipart upload";
                PartsProgress::Waiting(Arrival::Unknown(Reason::NotObservable, why.to_owned()))
            }
        }
    }

    fn assembled(&self, arrived: &[ArrivedPart]) -> Assembled {
        match self.g.operation_spec.parts() {
            Some(parts) => assemble(&parts, arrived),
            None => Assembled::Waiting,
        }
    }

    /// Completes the upload after all parts have arrived. If the upload is write-once, Valet first checks if the
    /// object exists. Valet needs this check, because some stores do not look for an existing object when they
    /// complete an upload.
    ///
    /// If the object exists, Valet lists the parts again, because a second operator may have just completed this
    /// upload.
    fn complete(&self, access: &Access, upload: &str, parts: Vec<ArrivedPart>) -> PartsProgress {
        if self.write_once() {
            match &self.f.object {
                ObjectFact::Unread => return PartsProgress::Next(Step::Read(Read::Object(access.clone()))),
                ObjectFact::Present { modified_at, .. } if self.is_settling(*modified_at) => {
                    return PartsProgress::Waiting(Arrival::Unchanged);
                }
                ObjectFact::Present { object, .. } => return PartsProgress::Next(self.exists_already(object)),
                ObjectFact::Absent | ObjectFact::Hidden | ObjectFact::ClockSkewed(_) | ObjectFact::Unreachable(_) => {
                }
            }
        }
        match &self.f.completion_refused {
            Some(why) => PartsProgress::Waiting(Arrival::Flawed(format!(
                "all parts have arrived, but the store does not complete the multipart upload: {why}"
            ))),
            None => PartsProgress::Next(Step::Complete(
                access.clone(),
                Assembly {
                    upload: upload.to_owned(),
                    parts,
                    write_once: self.write_once(),
                },
            )),
        }
    }

    /// Returns true if the object was modified less than 10 seconds ago and the credential is still valid. A second
    /// operator may then be completing the multipart upload. With some stores, the object exists a short time before
    /// the multipart upload ends.
    fn is_settling(&self, modified_at: Option<Timestamp>) -> bool {
        let is_fresh = modified_at.is_some_and(|t| self.now < add(t, SETTLING));
        is_fresh
            && self
                .credential()
                .is_some_and(|credential| self.end(credential) > self.now)
    }

    /// Handles a multipart upload whose credential has expired. Valet completes the upload if all parts have arrived
    /// and the access rules and the spec still allow it. Otherwise Valet aborts the upload.
    pub(super) fn check_last_parts(&self, credential: Option<Lifetime>, expired_text: &str) -> Option<Step> {
        let upload = self.upload_id()?;
        match (&self.f.upload, &self.f.store) {
            (UploadFact::Unread, StoreFact::Unread) => Some(Step::Read(Read::Store)),
            (UploadFact::Unread, StoreFact::Usable(_)) => match self.access() {
                Ok(access) => Some(Step::Read(Read::Upload(access, upload.to_owned()))),
                Err(_) => self.abort_own().map(Step::Abort),
            },
            (UploadFact::Open(arrived), store) => {
                let admitted = match store {
                    StoreFact::Usable(store) if !self.g.terms.is_suspended() => admit(self.g, store).ok(),
                    _ => None,
                };
                let progress = match (self.assembled(arrived), admitted) {
                    (Assembled::Whole(parts), Some(access)) => self.complete(&access, upload, parts),
                    _ => PartsProgress::Ended,
                };
                match (progress, self.access()) {
                    (PartsProgress::Next(step), _) => Some(step),
                    (PartsProgress::Waiting(_) | PartsProgress::Ended, Ok(access)) => {
                        Some(Step::Abort(access.to_abort(upload)))
                    }
                    (PartsProgress::Waiting(_) | PartsProgress::Ended, Err(_)) => self.abort_own().map(Step::Abort),
                }
            }
            (UploadFact::Unreachable(why), _) => {
                let end = self.expired_at(credential).unwrap_or(self.now);
                if self.now >= add(end, POLL_PATIENCE) {
                    return None;
                }
                let waits = format!(
                    "Valet cannot yet check whether all parts have arrived, and tries again: {why}",
                    why = self.unreachable(why)
                );
                let situation =
                    Situation::of(Reason::StoreUnreachable, format!("{expired_text}; {waits}"), credential);
                Some(self.settle(&situation, Some(self.retry())))
            }
            // If the multipart upload no longer exists, Valet must read the object to find out if the upload was
            // completed. If the store does not let Valet list the parts, Valet cannot complete the upload.
            (UploadFact::Unread | UploadFact::Gone | UploadFact::Aborted { .. } | UploadFact::Hidden, _) => None,
        }
    }

    /// Describes a multipart upload that was not completed, as text for messages.
    pub(super) fn upload_outcome(&self) -> String {
        let (UploadFact::Aborted { parts }, Some(all)) = (&self.f.upload, self.g.operation_spec.parts()) else {
            return "nothing was uploaded".to_owned();
        };
        match (&self.f.completion_refused, parts) {
            (Some(why), _) => {
                format!("the multipart upload was aborted, because the store did not complete the upload: {why}")
            }
            (None, 0) => "nothing was uploaded".to_owned(),
            (None, parts) => format!(
                "the multipart upload was aborted, because its parts did not form a complete object (uploaded parts: {parts}; part URLs of the grant: {count})",
                count = all.count()
            ),
        }
    }

    /// Returns the step for a grant whose multipart upload no longer exists and whose object was not created. The
    /// part URLs of the grant are useless in this case.
    pub(super) fn aborted(&self) -> Step {
        let message = format!(
            "{store} no longer has the multipart upload, because another client or a lifecycle rule of the bucket aborted it; no object was created; create a new grant",
            store = self.g.terms.store_ref
        );
        let situation = Situation {
            arrival: Arrival::NotYet,
            finished: true,
            ..Situation::of(Reason::UploadAborted, message, self.credential())
        };
        self.settle(&situation, None)
    }
}
