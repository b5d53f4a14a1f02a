//! This module handles multipart uploads. It decides when all parts of an upload have arrived, and how Valet cleans
//! up unfinished uploads.
//!
//! The store keeps uploaded parts until the upload is completed or aborted, and the user must pay for them.
//!
//! A grant with a multipart upload has a finalizer, so that Valet can abort the upload before the grant is deleted.
//! Valet adds the finalizer before it initiates the upload. The finalizer stays until the upload has ended, or until
//! Valet gives up the cleanup after a limited time.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Evaluator,
    facts::{ArrivedPart, ObjectFact, OpenUpload, StoreFact, UploadFact, UploadsFact},
    lifetime::{Lifetime, POLL_PATIENCE, add, retry},
    policy::{AbortAccess, Access, Refusal, abort_own, admit},
    status::{Arrival, Situation, condition},
    step::{Assembly, GrantEvent, Read, Step},
};
use crate::api::{Ask, ConditionType, Parts, Progress, Reason, UploadMode, annotation};

/// A user deletes a grant, and the store does not abort the multipart upload of this grant. Valet then delays the
/// deletion of the grant for at most 5 minutes. A store can restart within this time. A user who deletes a namespace
/// can wait for this time.
const DELETION_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// For 10 seconds after a multipart upload was completed, a store may return both the multipart upload and the new
/// object.
const SETTLING: SignedDuration = SignedDuration::from_secs(10);

/// Valet compares times of the store's clock and of its own clock to find out if it initiated a multipart upload. It
/// tolerates a clock difference of one minute. With a larger tolerance, Valet could abort a multipart upload that a
/// different client initiated.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// The result of a comparison between the uploaded parts and the expected parts of a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Assembled {
    /// At least one expected part is missing.
    Waiting,
    /// The store cannot assemble the object from the uploaded parts. The text says why, and what the user can do.
    Flawed(String),
    /// The parts form the complete object.
    Whole(Vec<ArrivedPart>),
}

/// The result of the check of a multipart upload whose credential is still valid.
pub(super) enum Gathered {
    /// Valet must execute this step next.
    Next(Step),
    /// Valet waits for more parts or for the next poll. The value says what the condition `Completed` reports.
    Waiting(Arrival),
    /// The multipart upload no longer exists. Valet must check the object, because only the object shows if the
    /// upload was completed.
    Over,
}

/// The result of the cleanup of a multipart upload after its grant has ended.
// The large variant is not boxed, because only one value of this type exists per reconcile.
#[allow(clippy::large_enum_variant)]
pub(super) enum Cleaning {
    /// Valet must execute this step next.
    Next(Step),
    /// Valet retries the cleanup at this time.
    Wait(Timestamp),
    /// The cleanup is complete.
    Done,
}

/// Compares the uploaded parts with the expected parts. The object ends with the first part that is shorter than the
/// part size, or otherwise with the last expected part. Valet therefore does not need to know the size of the object
/// before the upload.
pub(super) fn assemble(parts: &Parts, arrived: &[ArrivedPart]) -> Assembled {
    let (mut whole, mut bytes) = (Vec::new(), 0_i64);
    for part in parts.all() {
        let number = part.number;
        let Some(came) = arrived.iter().find(|came| came.number == number) else {
            return Assembled::Waiting;
        };
        if came.size > part.size.max {
            let why = format!(
                "part {number} has {size} bytes instead of at most {max} bytes; upload part {number} again",
                size = came.size,
                max = part.size.max
            );
            return Assembled::Flawed(why);
        }
        whole.push(came.clone());
        bytes = bytes.saturating_add(came.size);
        let is_short = came.size < parts.part_bytes;
        if number < parts.count() && !is_short {
            continue;
        }
        // Clients upload parts in parallel, so the last part can arrive before earlier parts.
        let beyond = arrived
            .iter()
            .any(|other| other.number > number && other.number <= parts.count());
        return if beyond {
            Assembled::Flawed(format!(
                "part {number} has {size} bytes instead of {part_bytes} bytes and is not the last part; upload part {number} again, or create a new grant",
                size = came.size,
                part_bytes = parts.part_bytes
            ))
        } else if bytes < parts.whole.min {
            Assembled::Flawed(format!(
                "part {number} has {size} bytes, so the object would have {bytes} bytes instead of at least {min} bytes; upload part {number} again",
                size = came.size,
                min = parts.whole.min
            ))
        } else {
            Assembled::Whole(whole)
        };
    }
    Assembled::Waiting
}

impl Evaluator<'_> {
    /// Returns true if the grant uses a multipart upload.
    pub(super) fn is_in_parts(&self) -> bool {
        matches!(
            self.g.ask,
            Ask::Upload {
                mode: UploadMode::Multipart,
                ..
            }
        )
    }

    /// Returns the store's ID of the grant's multipart upload. The ID comes from the Secret, or from the status if
    /// the Secret does not exist. Valet verifies the record signature of both, so no other program can change the ID.
    pub(super) fn upload(&self) -> Option<&str> {
        if !self.is_in_parts() {
            return None;
        }
        let recorded = self.own_secret().and_then(|s| s.upload_id.as_ref());
        recorded.or(self.g.status.upload_id.as_ref()).map(String::as_str)
    }

    /// Handles a multipart upload whose credential is still valid. Valet lists the parts when a poll is due, and
    /// completes the upload when all parts have arrived.
    pub(super) fn gather(&self, access: &Access, is_time: bool) -> Gathered {
        let Some(upload) = self.upload() else {
            return Gathered::Waiting(Arrival::Flawed(format!(
                "Secret {name} no longer has the annotation {annotation}, so Valet cannot find the uploaded parts; delete this Secret, and Valet issues a new credential",
                name = self.g.secret_name(),
                annotation = annotation::UPLOAD_ID
            )));
        };
        match &self.f.upload {
            UploadFact::Unread
                if is_time || self.f.completion_refused.is_some() || !matches!(self.f.object, ObjectFact::Unread) =>
            {
                Gathered::Next(Step::Read(Read::Upload(access.clone(), upload.to_owned())))
            }
            // A failed poll gives no information. Valet polls again after the usual pause.
            UploadFact::Unread | UploadFact::Unreachable(_) => Gathered::Waiting(Arrival::Unchanged),
            UploadFact::Open(arrived) => match self.assembled(arrived) {
                Assembled::Waiting => Gathered::Waiting(Arrival::NotYet),
                Assembled::Flawed(why) => Gathered::Waiting(Arrival::Flawed(why)),
                Assembled::Whole(parts) => self.complete(access, upload, parts),
            },
            UploadFact::Gone | UploadFact::Aborted { .. } if matches!(self.f.object, ObjectFact::Unread) => {
                Gathered::Next(Step::Read(Read::Object(access.clone())))
            }
            UploadFact::Gone | UploadFact::Aborted { .. } => Gathered::Over,
            UploadFact::Hidden => {
                let why = "the store's credentials are not allowed to list uploaded parts (s3:ListMultipartUploadParts), so Valet cannot complete the multipart upload";
                Gathered::Waiting(Arrival::Unknown(Reason::NotObservable, why.to_owned()))
            }
        }
    }

    fn assembled(&self, arrived: &[ArrivedPart]) -> Assembled {
        match self.g.ask.parts() {
            Some(parts) => assemble(&parts, arrived),
            None => Assembled::Waiting,
        }
    }

    /// Completes the upload after all parts have arrived. If the upload is write-once, Valet first checks if the
    /// object exists. This check is necessary, because some stores cannot complete an upload on the condition that
    /// the object does not exist.
    ///
    /// If the object exists, Valet lists the parts again, because a second operator may have just completed this
    /// upload.
    fn complete(&self, access: &Access, upload: &str, parts: Vec<ArrivedPart>) -> Gathered {
        if self.write_once() {
            match &self.f.object {
                ObjectFact::Unread => return Gathered::Next(Step::Read(Read::Object(access.clone()))),
                ObjectFact::Present { modified_at, .. } if self.is_settling(*modified_at) => {
                    return Gathered::Waiting(Arrival::Unchanged);
                }
                ObjectFact::Present { object, .. } => return Gathered::Next(self.exists_already(object)),
                ObjectFact::Absent | ObjectFact::Hidden | ObjectFact::ClockSkewed(_) | ObjectFact::Unreachable(_) => {
                }
            }
        }
        match &self.f.completion_refused {
            Some(why) => Gathered::Waiting(Arrival::Flawed(format!(
                "all parts have arrived, but the store does not complete the multipart upload: {why}"
            ))),
            None => Gathered::Next(Step::Complete(
                access.clone(),
                Assembly {
                    upload: upload.to_owned(),
                    parts,
                    write_once: self.write_once(),
                },
            )),
        }
    }

    /// Returns true if the object is only some seconds old. In this case a second operator may be completing the
    /// multipart upload, because some stores do not complete an upload atomically. Returns false if the credential
    /// has expired.
    fn is_settling(&self, modified_at: Option<Timestamp>) -> bool {
        let is_fresh = modified_at.is_some_and(|t| self.now < add(t, SETTLING));
        is_fresh && self.key().is_some_and(|key| self.end(key) > self.now)
    }

    /// Handles a multipart upload whose credential has expired. Valet completes the upload if all parts have arrived
    /// and the access rules and the spec still allow it. Otherwise Valet aborts the upload.
    pub(super) fn last_parts(&self, key: Option<Lifetime>, said: &str) -> Option<Step> {
        let upload = self.upload()?;
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
                let gathered = match (self.assembled(arrived), admitted) {
                    (Assembled::Whole(parts), Some(access)) => self.complete(&access, upload, parts),
                    _ => Gathered::Over,
                };
                match (gathered, self.access()) {
                    (Gathered::Next(step), _) => Some(step),
                    (Gathered::Waiting(_) | Gathered::Over, Ok(access)) => Some(Step::Abort(access.to_abort(upload))),
                    (Gathered::Waiting(_) | Gathered::Over, Err(_)) => self.abort_own().map(Step::Abort),
                }
            }
            (UploadFact::Unreachable(why), _) => {
                let end = self.over_at(key).unwrap_or(self.now);
                if self.now >= add(end, POLL_PATIENCE) {
                    return None;
                }
                let waits = format!(
                    "Valet waits for a last check of the uploaded parts: {why}",
                    why = self.unreachable(why)
                );
                let situation = Situation::of(Reason::StoreUnreachable, format!("{said}; {waits}"), key);
                Some(self.settle(&situation, Some(self.retry())))
            }
            // If the multipart upload no longer exists, the object shows if the upload was completed. If Valet cannot
            // list the parts, it cannot complete the upload.
            (UploadFact::Unread | UploadFact::Gone | UploadFact::Aborted { .. } | UploadFact::Hidden, _) => None,
        }
    }

    /// Describes a multipart upload that was not completed, as text for messages.
    pub(super) fn what_came(&self) -> String {
        let (UploadFact::Aborted { parts }, Some(all)) = (&self.f.upload, self.g.ask.parts()) else {
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
            ..Situation::of(Reason::UploadAborted, message, self.key())
        };
        self.settle(&situation, None)
    }

    /// Handles a grant that is being deleted. The garbage collector deletes the grant Secret only after the grant has
    /// no finalizers. Controllers other than Valet can also add finalizers to a grant.
    pub(super) fn leave(&self) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        if !self.g.held {
            return self.deleting();
        }
        match self.clean(self.g.deleted_at.unwrap_or(self.now)) {
            Cleaning::Next(step) => step,
            Cleaning::Wait(again) => Step::Rest { until: Some(again) },
            Cleaning::Done => Step::Rest { until: None },
        }
    }

    /// Writes the status of a grant that is being deleted but still has finalizers from controllers other than Valet.
    /// The status must no longer name a Secret.
    fn deleting(&self) -> Step {
        let is_said =
            condition(&self.g.status, ConditionType::Ready).is_some_and(|c| c.reason == Reason::Deleting.as_str());
        if self.g.status.binding.is_none() && !is_said {
            return Step::Rest { until: None };
        }
        let key = self.key();
        let outcome = match self.copies_until(key) {
            Some(end) if end > self.now => {
                format!("the Secret was deleted, but copies of the credential work until {end}")
            }
            _ => "the Secret was deleted".to_owned(),
        };
        let message =
            format!("the grant is being deleted, but finalizers keep the grant (metadata.finalizers); {outcome}");
        self.settle(&Situation::of(Reason::Deleting, message, key), None)
    }

    /// Aborts the multipart upload of a grant that Valet refused permanently. Valet waits with the abort until all
    /// credentials of the grant have expired.
    pub(super) fn abandon_upload(&self, reason: Reason) -> Option<Step> {
        let is_out = self.copies_until(self.key()).is_some_and(|end| end > self.now);
        let is_begun = matches!(
            self.f.upload,
            UploadFact::Unread | UploadFact::Open(_) | UploadFact::Hidden
        );
        if is_out || !is_begun || reason.progress() != Progress::Stalled {
            return None;
        }
        self.abort_own().map(Step::Abort)
    }

    /// Aborts the grant's multipart uploads in the store, and then removes the grant's finalizer. The grant ended at
    /// the time `since`. If Valet cannot use the store, it retries for a limited time after `since`.
    pub(super) fn clean(&self, since: Timestamp) -> Cleaning {
        if !self.g.held {
            return Cleaning::Done;
        }
        // The finalizer does not prove that an upload exists, because any user can add the finalizer to any grant.
        if !self.is_in_parts() {
            return Cleaning::Next(Step::RemoveFinalizer { notice: None });
        }
        if matches!(self.f.store, StoreFact::Unread) {
            return Cleaning::Next(Step::Read(Read::Store));
        }
        let access = match self.access() {
            Ok(access) => access,
            Err(refusal) => return self.clean_without_access(since, &refusal),
        };
        let trouble = match (self.upload(), &self.f.upload) {
            (Some(upload), UploadFact::Unread) => {
                return Cleaning::Next(Step::Read(Read::Upload(access, upload.to_owned())));
            }
            // Credentials without permission to list the parts may still have permission to abort the upload.
            (Some(upload), UploadFact::Open(_) | UploadFact::Hidden) => {
                return Cleaning::Next(Step::Abort(access.to_abort(upload)));
            }
            (Some(_), UploadFact::Unreachable(why)) => Some(why),
            (Some(_), UploadFact::Gone | UploadFact::Aborted { .. }) | (None, _) => None,
        };
        let trouble = match (trouble, &self.f.uploads) {
            (Some(why), _) | (None, UploadsFact::Unreachable(why)) => why,
            (None, UploadsFact::Unread) => return Cleaning::Next(Step::Read(Read::Uploads(access))),
            (None, UploadsFact::Listed { uploads, contested }) => {
                let orphans: Vec<_> = uploads
                    .iter()
                    .filter(|upload| !contested && self.is_stray(upload))
                    .map(|upload| access.to_abort(&upload.id))
                    .collect();
                return Cleaning::Next(if orphans.is_empty() {
                    Step::RemoveFinalizer { notice: None }
                } else {
                    Step::AbortOrphans(orphans)
                });
            }
            (None, UploadsFact::Hidden) => return Cleaning::Next(Step::RemoveFinalizer { notice: None }),
        };
        self.wait_or_release(since, trouble)
    }

    /// Cleans up a grant that the access rules do not allow, or whose store was deleted. Valet only aborts the
    /// multipart upload that it initiated for this grant. It sends no other requests to the store.
    fn clean_without_access(&self, since: Timestamp, refusal: &Refusal) -> Cleaning {
        match (&self.f.upload, self.abort_own()) {
            (UploadFact::Unread | UploadFact::Open(_) | UploadFact::Hidden, Some(own)) => {
                Cleaning::Next(Step::Abort(own))
            }
            (UploadFact::Unreachable(why), Some(_)) => self.wait_or_release(since, why),
            (UploadFact::Gone | UploadFact::Aborted { .. }, _) => {
                Cleaning::Next(Step::RemoveFinalizer { notice: None })
            }
            // Valet has recorded no multipart upload for this grant, so no parts can be left in the store.
            (_, None) if self.upload().is_none() => Cleaning::Next(Step::RemoveFinalizer { notice: None }),
            // Valet cannot use the store now. It retries for a limited time, because this problem may end.
            (_, None) if self.forbidden().is_none() && !matches!(self.f.store, StoreFact::Usable(_)) => {
                self.wait_or_release(since, "the store was deleted or cannot be used")
            }
            (_, None) => Cleaning::Next(self.leave_parts(&format!(
                "Valet sent no request to the store, because the store's access rules do not allow the grant: {message}",
                message = refusal.message
            ))),
        }
    }

    /// Returns the permission to abort the upload that Valet initiated for this grant. Returns `None` if Valet cannot
    /// prove that it initiated an upload.
    fn abort_own(&self) -> Option<AbortAccess> {
        // Valet uses an upload ID from the Secret or the status only if the record there has a valid record
        // signature.
        let own = self.f.own_upload.as_deref().filter(|_| self.is_in_parts());
        let own = own.or_else(|| self.upload())?;
        abort_own(self.g, own)
    }

    /// Handles a store that did not abort the multipart upload. Valet retries for a limited time. After this time,
    /// Valet removes the finalizer of the grant, and the parts stay in the store.
    fn wait_or_release(&self, since: Timestamp, trouble: &str) -> Cleaning {
        let patience = if self.g.deleting {
            DELETION_PATIENCE
        } else {
            POLL_PATIENCE
        };
        // If the store resource was deleted, Valet does not retry, because it can no longer send requests to the
        // store.
        let is_hopeless = self.g.deleting && matches!(self.f.store, StoreFact::Missing);
        if !is_hopeless && self.now < add(since, patience) {
            return Cleaning::Wait(retry(Some(since), self.now));
        }
        Cleaning::Next(self.leave_parts(trouble))
    }

    fn leave_parts(&self, why: &str) -> Step {
        let message = format!(
            "the multipart upload of object key {key} in {store} could not be aborted, and Valet does not try again: {why}; the uploaded parts stay in the bucket and are billed until another client or a lifecycle rule aborts the multipart upload",
            key = self.g.terms.key,
            store = self.g.terms.store_ref
        );
        Step::RemoveFinalizer {
            notice: Some(GrantEvent {
                reason: Reason::PartsLeft,
                message,
            }),
        }
    }

    /// Returns true if Valet initiated this multipart upload and crashed before it recorded the upload ID. Such an
    /// upload has no parts, because no client received the upload ID. Its start time is after the creation of the
    /// grant and before the issue time of the first credential.
    fn is_stray(&self, upload: &OpenUpload) -> bool {
        let first = self.g.created.map(|created| add(created, -SKEW));
        let last = add(self.key().map_or(self.now, |key| key.issued_at), SKEW);
        let is_in_time = upload
            .begun
            .is_some_and(|begun| first.is_some_and(|first| first <= begun) && begun <= last);
        !upload.has_parts && is_in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LengthRange;

    const MIB: i64 = 1 << 20;

    fn assembled(range: (i64, i64), sizes: &[(i64, i64)]) -> Assembled {
        let parts = Parts {
            part_bytes: 5 * MIB,
            whole: LengthRange {
                min: range.0,
                max: range.1,
            },
        };
        assemble(&parts, &came(sizes))
    }

    fn came(sizes: &[(i64, i64)]) -> Vec<ArrivedPart> {
        let part = |(number, size): &(i64, i64)| ArrivedPart {
            number: *number,
            size: *size,
            e_tag: format!("\"{number}\""),
        };
        sizes.iter().map(part).collect()
    }

    fn flaw(range: (i64, i64), sizes: &[(i64, i64)]) -> String {
        match assembled(range, sizes) {
            Assembled::Flawed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn object_of_known_size_is_complete_with_exactly_its_parts() {
        let exact = (12 * MIB, 12 * MIB);
        let all = [(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)];
        for some in [&all[..0], &all[..1], &all[..2], &all[1..]] {
            assert_eq!(assembled(exact, some), Assembled::Waiting, "{some:?}");
        }
        assert_eq!(assembled(exact, &all), Assembled::Whole(came(&all)));
        // The parts can arrive in any order. Valet ignores parts with a higher number than the last expected part.
        let others = [(4, 9), (3, 2 * MIB), (2, 5 * MIB), (1, 5 * MIB)];
        assert_eq!(assembled(exact, &others), Assembled::Whole(came(&all)));
        assert_eq!(
            assembled((5 * MIB, 5 * MIB), &all[..1]),
            Assembled::Whole(came(&all[..1]))
        );
        assert_eq!(assembled((0, 0), &[(1, 0)]), Assembled::Whole(came(&[(1, 0)])));
        for (sizes, says) in [
            (
                &[(1, 5 * MIB + 1)][..],
                "part 1 has 5242881 bytes instead of at most 5242880 bytes",
            ),
            (
                &[(1, 5 * MIB - 1)],
                "part 1 has 5242879 bytes, so the object would have 5242879 bytes instead of at least 12582912 bytes",
            ),
            (
                &[(1, 5 * MIB - 1), (2, 5 * MIB)],
                "part 1 has 5242879 bytes instead of 5242880 bytes and is not the last part",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)],
                "part 3 has 2097153 bytes instead of at most 2097152 bytes",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB - 1)],
                "part 3 has 2097151 bytes, so the object would have 12582911 bytes instead of at least 12582912 bytes",
            ),
        ] {
            let why = flaw(exact, sizes);
            assert!(why.starts_with(says), "{why}");
        }
    }

    #[test]
    fn object_with_a_size_range_is_complete_after_a_short_part() {
        let range = (6 * MIB, 12 * MIB);
        let whole =
            |sizes: &[(i64, i64)]| assert_eq!(assembled(range, sizes), Assembled::Whole(came(sizes)), "{sizes:?}");
        // The last part can be empty or shorter than the part size. Its number can be the highest number that the
        // grant allows.
        whole(&[(1, 5 * MIB), (2, MIB)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 0)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)]);
        assert_eq!(assembled(range, &[(1, 5 * MIB), (2, 5 * MIB)]), Assembled::Waiting);
        assert!(
            flaw(range, &[(1, 5 * MIB), (2, MIB - 1)]).contains("6291455 bytes instead of at least 6291456 bytes")
        );
        assert!(flaw(range, &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)]).contains("at most 2097152"));
        assert!(flaw(range, &[(1, 5 * MIB), (2, MIB), (3, 0)]).contains("is not the last part"));
    }
}
