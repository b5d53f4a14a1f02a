//! Aborts the multipart uploads of a grant that has ended.
//!
//! The store keeps uploaded parts until the upload is completed or aborted, and the user must pay for them.
//!
//! A grant with a multipart upload has a finalizer, so that Valet can abort the upload before the grant is deleted.
//! Valet adds the finalizer before it initiates the upload. The finalizer stays until the upload has ended, or until
//! Valet gives up the cleanup after a limited time.

use jiff::{SignedDuration, Timestamp};

use super::evaluator::Evaluator;
use crate::{
    api::{Progress, Reason},
    core::{
        facts::{StoreFact, UploadFact, UploadsFact},
        lifetime::{POLL_PATIENCE, add, retry},
        multipart_upload::OpenUpload,
        policy::{AbortAccess, abort_own},
        refusal::Refusal,
        step::{GrantEvent, Read, Step},
    },
};

/// The maximum time for which Valet delays the deletion of a grant if the store does not abort the grant's multipart
/// upload. Five minutes are enough for a restart of the store. They are also short enough for a user who waits for
/// the deletion of a namespace.
const DELETION_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// The clock difference that Valet tolerates when it compares a time from the store with a time from its own clock.
/// With this comparison, Valet finds out if it initiated a multipart upload itself. With a larger tolerance, Valet
/// could abort a multipart upload that a different client initiated.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// The result of the cleanup of a multipart upload after its grant has ended.
// The large variant is not boxed, because only one value of this type exists per reconcile.
#[allow(clippy::large_enum_variant)]
pub(super) enum Cleanup {
    /// Valet must execute this step next.
    Next(Step),
    /// Valet retries the cleanup at this time.
    Wait(Timestamp),
    /// The cleanup is complete.
    Done,
}

impl Evaluator<'_> {
    /// Aborts the multipart upload of a grant that Valet refused permanently. Valet aborts the upload only after all
    /// credentials of the grant have expired.
    pub(super) fn abort_refused_upload(&self, reason: Reason) -> Option<Step> {
        let is_out = self
            .copies_expire_at(self.credential())
            .is_some_and(|end| end > self.now);
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
    /// the time `since`. If Valet cannot use the store, Valet retries the cleanup for a limited time after `since`.
    pub(super) fn clean_up(&self, since: Timestamp) -> Cleanup {
        if !self.g.held {
            return Cleanup::Done;
        }
        // The finalizer does not prove that an upload exists, because any user can add the finalizer to any grant.
        if !self.is_multipart() {
            return Cleanup::Next(Step::RemoveFinalizer { notice: None });
        }
        if matches!(self.f.store, StoreFact::Unread) {
            return Cleanup::Next(Step::Read(Read::Store));
        }
        let access = match self.access() {
            Ok(access) => access,
            Err(refusal) => return self.clean_up_without_access(since, &refusal),
        };
        let trouble = match (self.upload_id(), &self.f.upload) {
            (Some(upload), UploadFact::Unread) => {
                return Cleanup::Next(Step::Read(Read::Upload(access, upload.to_owned())));
            }
            // Credentials without permission to list the parts may still have permission to abort the upload.
            (Some(upload), UploadFact::Open(_) | UploadFact::Hidden) => {
                return Cleanup::Next(Step::Abort(access.to_abort(upload)));
            }
            (Some(_), UploadFact::Unreachable(why)) => Some(why),
            (Some(_), UploadFact::Gone | UploadFact::Aborted { .. }) | (None, _) => None,
        };
        let trouble = match (trouble, &self.f.uploads) {
            (Some(why), _) | (None, UploadsFact::Unreachable(why)) => why,
            (None, UploadsFact::Unread) => return Cleanup::Next(Step::Read(Read::Uploads(access))),
            (None, UploadsFact::Listed { uploads, contested }) => {
                let orphans: Vec<_> = uploads
                    .iter()
                    .filter(|upload| !contested && self.is_orphan(upload))
                    .map(|upload| access.to_abort(&upload.id))
                    .collect();
                return Cleanup::Next(if orphans.is_empty() {
                    Step::RemoveFinalizer { notice: None }
                } else {
                    Step::AbortOrphans(orphans)
                });
            }
            (None, UploadsFact::Hidden) => return Cleanup::Next(Step::RemoveFinalizer { notice: None }),
        };
        self.wait_or_release(since, trouble)
    }

    /// Cleans up a grant that the access rules do not allow, or whose store was deleted. Valet only aborts the
    /// multipart upload that it initiated for this grant. It sends no other requests to the store.
    fn clean_up_without_access(&self, since: Timestamp, refusal: &Refusal) -> Cleanup {
        match (&self.f.upload, self.abort_own()) {
            (UploadFact::Unread | UploadFact::Open(_) | UploadFact::Hidden, Some(own)) => {
                Cleanup::Next(Step::Abort(own))
            }
            (UploadFact::Unreachable(why), Some(_)) => self.wait_or_release(since, why),
            (UploadFact::Gone | UploadFact::Aborted { .. }, _) => {
                Cleanup::Next(Step::RemoveFinalizer { notice: None })
            }
            // Valet has recorded no multipart upload for this grant, so no parts can be left in the store.
            (_, None) if self.upload_id().is_none() => Cleanup::Next(Step::RemoveFinalizer { notice: None }),
            // Valet cannot use the store now. Valet retries for a limited time, because the store may work again
            // soon.
            (_, None) if self.forbidden().is_none() && !matches!(self.f.store, StoreFact::Usable(_)) => {
                self.wait_or_release(since, "the store was deleted or cannot be used")
            }
            (_, None) => Cleanup::Next(self.give_up_parts(&format!(
                "Valet sent no request to the store, because the store's access rules do not allow the grant: {message}",
                message = refusal.message
            ))),
        }
    }

    /// Returns the permission to abort the upload that Valet initiated for this grant. Returns `None` if Valet cannot
    /// prove that it initiated an upload.
    pub(super) fn abort_own(&self) -> Option<AbortAccess> {
        // If the upload ID comes from the Secret or the status, the record signature there proves that Valet
        // initiated the upload.
        let own = self.f.own_upload.as_deref().filter(|_| self.is_multipart());
        let own = own.or_else(|| self.upload_id())?;
        abort_own(self.g, own)
    }

    /// Handles a store that did not abort the multipart upload. Valet retries for a limited time. After this time,
    /// Valet removes the finalizer of the grant, and the parts stay in the store.
    fn wait_or_release(&self, since: Timestamp, trouble: &str) -> Cleanup {
        let patience = if self.g.deleting {
            DELETION_PATIENCE
        } else {
            POLL_PATIENCE
        };
        // If the store resource was deleted, Valet does not retry, because it can no longer send requests to the
        // store.
        let is_hopeless = self.g.deleting && matches!(self.f.store, StoreFact::Missing);
        if !is_hopeless && self.now < add(since, patience) {
            return Cleanup::Wait(retry(Some(since), self.now));
        }
        Cleanup::Next(self.give_up_parts(trouble))
    }

    fn give_up_parts(&self, why: &str) -> Step {
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
    /// upload has no parts, because no client received the upload ID. Such an upload started after the creation of
    /// the grant and before the issue time of the first credential.
    fn is_orphan(&self, upload: &OpenUpload) -> bool {
        let first = self.g.created.map(|created| add(created, -SKEW));
        let last = add(
            self.credential().map_or(self.now, |credential| credential.issued_at),
            SKEW,
        );
        let is_in_time = upload
            .initiated
            .is_some_and(|initiated| first.is_some_and(|first| first <= initiated) && initiated <= last);
        !upload.has_parts && is_in_time
    }
}
