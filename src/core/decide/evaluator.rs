//! Answers questions about one grant from its facts. The questions are about the grant's credential, its times and its
//! object.

use std::cell::OnceCell;

use jiff::{SignedDuration, Timestamp};

use super::{credential_record::CredentialRecord, status::condition};
use crate::{
    api::{ConditionType, OperationSpec, Overwrite, Reason, UploadConstraints},
    core::{
        facts::{Facts, Owner, SecretFact, SecretView},
        grant_facts::GrantFacts,
        lifetime::{Lifetime, add, second},
        policy::Allowance,
    },
};

/// Evaluates the facts about one grant at one time.
pub(super) struct Evaluator<'a> {
    pub(super) f: &'a Facts,
    pub(super) g: &'a GrantFacts,
    /// The grant Secret. This is the Secret in the facts, or a Secret that Valet assumes from the status.
    pub(super) secret: &'a SecretFact,
    pub(super) now: Timestamp,
    /// What the access rules allow for renewals and for the total time (`maxTotalSeconds`). Valet computes this value
    /// when it is first needed.
    pub(super) allowance: OnceCell<Allowance>,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(facts: &'a Facts, secret: &'a SecretFact, now: Timestamp) -> Self {
        Self {
            f: facts,
            g: &facts.grant,
            secret,
            now,
            allowance: OnceCell::new(),
        }
    }
}

impl Evaluator<'_> {
    /// Returns the Secret, if it belongs to this grant and nobody has changed it since Valet last wrote it.
    pub(super) fn own_secret(&self) -> Option<&SecretView> {
        match self.secret {
            SecretFact::Present(s) if s.owner == Owner::ThisGrant && !s.deleting => {
                Some(s).filter(|s| s.is_authentic && !self.is_older_than_status(s))
            }
            _ => None,
        }
    }

    /// Returns true if the status records a newer credential than the Secret. In this case another client has replaced
    /// the Secret with an old version.
    fn is_older_than_status(&self, secret: &SecretView) -> bool {
        let status = &self.g.status;
        let knows_one = status.issued_time.is_some() && status.expiration_time.is_some();
        knows_one && secret.renewals.unwrap_or_default().max(0) < status.renewals.unwrap_or_default()
    }

    /// Returns the lifetime of the issued credential. Valet reads the lifetime from the Secret. If the Secret does not
    /// exist, is being deleted or was changed by another client, Valet reads the lifetime from the status.
    pub(super) fn credential(&self) -> Option<Lifetime> {
        let recorded = self.own_secret().and_then(|s| s.issued_at.zip(s.expires_at));
        let status = &self.g.status;
        let (issued_at, expires_at) =
            recorded.or_else(|| Some((status.issued_time.as_ref()?.0, status.expiration_time.as_ref()?.0)))?;
        Some(Lifetime {
            issued_at: second(issued_at),
            expires_at: second(expires_at),
        })
    }

    /// Returns the lifetime in seconds that the grant asked for when its credential was signed. The number comes from
    /// the Secret, or from the status if the Secret does not exist.
    pub(super) fn recorded_seconds(&self) -> Option<i64> {
        self.own_secret()
            .and_then(|s| s.expiration_seconds)
            .or(self.g.status.expiration_seconds)
    }

    /// Returns the lifetime in seconds that the grant asked for when its credential was signed. If no record contains
    /// this number, returns the number in the grant's spec.
    pub(super) fn requested_seconds(&self) -> i64 {
        self.recorded_seconds().unwrap_or(self.g.terms.expiration_seconds)
    }

    /// Returns the number of credentials that Valet issued for the grant before the current credential. The number
    /// comes from the Secret, or from the status if the Secret does not exist.
    pub(super) fn renewals(&self) -> i64 {
        self.own_secret()
            .map_or(self.g.status.renewals, |s| s.renewals)
            .unwrap_or_default()
            .max(0)
    }

    /// Returns the latest expiry of the grant's previous credentials. Returns `None` if no previous credential expires
    /// after the current credential.
    pub(super) fn earlier(&self) -> Option<Timestamp> {
        let status = self.g.status.earlier_expiration_time.as_ref().map(|t| second(t.0));
        let recorded = self.own_secret().map_or(status, |s| s.earlier_expires_at.map(second));
        recorded.filter(|end| self.credential().is_some_and(|credential| *end > credential.expires_at))
    }

    /// Returns the latest expiry of all credentials of this grant. Until then, the holder of a copy can still use a
    /// credential of the grant.
    pub(super) fn copies_expire_at(&self, credential: Option<Lifetime>) -> Option<Timestamp> {
        credential.map(|credential| credential.expires_at).max(self.earlier())
    }

    /// Returns the record of the issued credential.
    pub(super) fn record(&self, credential: Lifetime) -> CredentialRecord {
        CredentialRecord {
            credential,
            expiration_seconds: self.recorded_seconds(),
            renewals: self.renewals(),
            signed_with: self.own_secret().and_then(|s| s.signed_with.clone()),
            earlier: self.earlier(),
        }
    }

    /// Returns the latest time at which a credential of this grant is allowed to be valid. This is the earlier of two
    /// times: the grant's deadline, and the time at which the limit `maxTotalSeconds` of the access rules ends.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.own_deadline().into_iter().chain(self.total_end()).min()
    }

    /// Returns the grant's `deadlineTime` in whole seconds.
    pub(super) fn own_deadline(&self) -> Option<Timestamp> {
        self.g.terms.deadline_time.as_ref().map(|t| second(t.0))
    }

    /// Returns the time at which Valet treats the credential as expired. This is the expiry of the credential, or an
    /// earlier deadline that a user set after the credential was signed.
    pub(super) fn end(&self, credential: Lifetime) -> Timestamp {
        self.deadline()
            .map_or(credential.expires_at, |d| d.min(credential.expires_at))
    }

    /// Returns the expiry of the credential without the limits of the access rules. This is the earlier of two times:
    /// the expiry of the credential, and the deadline in the grant's spec.
    pub(super) fn own_end(&self, credential: Lifetime) -> Timestamp {
        self.own_deadline()
            .map_or(credential.expires_at, |d| d.min(credential.expires_at))
    }

    /// Returns the reason and the time at which the grant finished. Returns `None` if the grant has not finished.
    pub(super) fn finished(&self) -> Option<(Reason, Timestamp)> {
        let since = self.g.status.finished_time.as_ref()?.0;
        let ready = condition(&self.g.status, ConditionType::Ready)?;
        [
            Reason::Completed,
            Reason::ObjectExists,
            Reason::Expired,
            Reason::ExpiredUnused,
            Reason::Revoked,
            Reason::ObjectMismatch,
            Reason::UploadAborted,
        ]
        .into_iter()
        .find(|r| r.as_str() == ready.reason)
        .map(|r| (r, since))
    }

    pub(super) fn write_once(&self) -> bool {
        matches!(
            &self.g.operation_spec,
            OperationSpec::Upload {
                constraints: UploadConstraints {
                    overwrite: Overwrite::Forbid,
                    ..
                },
                ..
            }
        )
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.g.operation_spec, OperationSpec::Upload { .. })
    }

    /// Returns the store's ID of the grant's multipart upload. The ID comes from the Secret, or from the status if
    /// the Secret does not exist. Valet verifies the record signature of both, so no other program can change the ID.
    pub(super) fn upload_id(&self) -> Option<&str> {
        if !self.is_multipart() {
            return None;
        }
        let recorded = self.own_secret().and_then(|s| s.upload_id.as_ref());
        recorded.or(self.g.status.upload_id.as_ref()).map(String::as_str)
    }

    pub(super) fn is_multipart(&self) -> bool {
        self.g.operation_spec.is_multipart()
    }

    /// Returns true if Valet waits until a client uploads the object of this grant. A grant for a prefix has no single
    /// object, so Valet does not wait.
    pub(super) fn awaits_object(&self) -> bool {
        self.is_upload() && !self.g.terms.is_prefix()
    }

    /// Returns true if the grant stays active after an upload. This is the case if Valet renews the credential and
    /// the credential allows further uploads.
    pub(super) fn is_standing(&self) -> bool {
        // The result is false for a multipart upload, because the part URLs are useless after the object exists.
        self.g.terms.renews() && self.is_upload() && !self.write_once() && !self.is_multipart()
    }

    /// Returns true if the published credential does not have the lifetime that the spec now asks for. The method
    /// compares the lifetimes and not the generation in the Secret's annotation. Valet also updates the generation when
    /// it changes only the Secret's metadata, so an equal generation does not mean an equal lifetime.
    pub(super) fn asks_for_new_lifetime(&self, secret: &SecretView, credential: Lifetime) -> bool {
        secret
            .expiration_seconds
            .is_some_and(|s| s != self.g.terms.expiration_seconds)
            || self.own_end(credential) < credential.expires_at
    }

    /// Returns true if the status records exactly this credential.
    pub(super) fn is_reported(&self, credential: Lifetime) -> bool {
        let status = &self.g.status;
        status.issued_time.as_ref().map(|t| t.0) == Some(credential.issued_at)
            && status.expiration_time.as_ref().map(|t| t.0) == Some(credential.expires_at)
    }

    /// Returns true if the status says that the object was uploaded.
    pub(super) fn was_completed(&self) -> bool {
        condition(&self.g.status, ConditionType::Completed).is_some_and(|c| c.status == "True")
    }

    /// Returns the time after which an object in the store counts as uploaded with a credential of the grant. If the
    /// grant had only one credential, this is the time at which the credential was signed. If the credential was
    /// renewed, a client may have used a previous credential, so the result is the time at which the grant was created.
    pub(super) fn valid_from(&self, credential: Lifetime) -> Timestamp {
        // The modification time of an object from a multipart upload is the time at which Valet initiated the upload
        // (Amazon S3 User Guide, "Working with object metadata"). Valet initiates the upload before it signs the first
        // credential. The result for a multipart upload is therefore the creation time of the grant.
        let created = self.g.created.filter(|_| self.renewals() > 0 || self.is_multipart());
        created.map_or(credential.issued_at, |created| created.min(credential.issued_at))
    }

    /// Returns true if an object with this modification time was written after the credential was issued. Stores keep
    /// times in whole seconds. If the object was written in the second in which the credential was issued, the result
    /// is therefore true.
    pub(super) fn is_newer(&self, credential: Option<Lifetime>, modified_at: Option<Timestamp>) -> bool {
        match (credential, modified_at) {
            (Some(credential), Some(t)) => add(t, SignedDuration::from_secs(1)) >= self.valid_from(credential),
            // The store returned no modification time. For a write-once upload, the object did not exist before the
            // credential was issued, so the result is true. For other uploads, Valet cannot know when the object was
            // written.
            (Some(_), None) => self.write_once(),
            (None, _) => false,
        }
    }
}
