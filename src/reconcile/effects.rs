use std::{collections::BTreeMap, future::Future};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;

use super::error::Error;
use crate::{
    api::GrantStatus,
    core::{
        AbortAccess, Access, AllowedRequest, Assembly, Completion, Facts, GrantEvent, GrantFacts, ObjectFact,
        PublishMode, QuotaFact, QuotaLimits, Repairs, RulesView, SecretView, SignError, Signed, Step, StoreFact,
        StoreView, UploadFact, UploadsFact,
    },
};

/// Everything that a reconcile of one grant reads and changes.
///
/// Each read and each write has a time limit. Every write to the apiserver has two preconditions: the UID and the
/// resource version of the object that Valet read before the decision. If the object has changed after this read, the
/// write returns [`Error::Conflict`].
pub trait Effects {
    /// The interpreter calls this method before it executes a step.
    fn before_step(&mut self, facts: &Facts, step: &Step) {
        let _ = (facts, step);
    }

    /// Returns true if the time limit of the reconcile has passed. After the time limit, the reconcile starts no step
    /// that waits for a store.
    fn is_late(&self) -> bool {
        false
    }

    /// Returns true if the reconcile must end after it has deleted the Secret, because other grants wait for a reconcile.
    /// A later reconcile then writes the status. If many credentials expire at the same time, Valet therefore deletes
    /// all Secrets first.
    ///
    /// If the method returns true, the next reconcile starts with the fact that the Secret does not exist.
    fn postpones_status(&mut self, grant: &GrantFacts) -> bool {
        let _ = grant;
        false
    }

    /// Takes a permit for requests to the grant's store, unless the reconcile already has such a permit.
    ///
    /// # Errors
    /// Returns [`Error::Queued`] if the limit of concurrent requests to the store is reached.
    fn take_permit(&mut self, grant: &GrantFacts) -> Result<(), Error>;

    /// Gives the permit back, so that another reconcile can send requests to the store.
    fn return_permit(&mut self);

    /// Reads the grant's store. Valet wants to sign a credential that expires at `wanted_until`. If necessary, the
    /// method gets new signing credentials that are valid until this time. If the facts are not in memory, the method
    /// takes a permit for requests to the store.
    ///
    /// # Errors
    /// Returns an error if a call to the apiserver fails, or [`Error::Queued`] if there is no permit. A problem of the
    /// store is not an error, because the result describes it.
    fn read_store(
        &mut self,
        grant: &GrantFacts,
        wanted_until: Timestamp,
    ) -> impl Future<Output = Result<StoreReading, Error>> + Send;

    /// Reads the Secret whose name is in the grant's spec. Returns `None` if the Secret does not exist.
    ///
    /// # Errors
    /// Returns an error if the call to the apiserver fails.
    fn read_secret(&mut self, grant: &GrantFacts) -> impl Future<Output = Result<Option<SecretView>, Error>> + Send;

    /// Reads the current version of the grant from the apiserver.
    ///
    /// # Errors
    /// Returns [`Error::Gone`] if the grant no longer exists, or if a new grant now has its name.
    fn read_grant(&mut self, grant: &GrantFacts) -> impl Future<Output = Result<GrantFacts, Error>> + Send;

    /// Finds out whether the quota allows one more live grant. If the quota allows it, the method reserves quota for
    /// this grant.
    fn reserve_quota(
        &mut self,
        grant: &GrantFacts,
        limits: QuotaLimits,
        store: &StoreFact,
    ) -> impl Future<Output = QuotaFact> + Send;

    /// Polls the store for the grant's object.
    fn read_object(&mut self, access: &Access) -> impl Future<Output = ObjectFact> + Send;

    /// Lists the uploaded parts of a multipart upload.
    fn read_upload(&mut self, access: &Access, upload: &str) -> impl Future<Output = UploadFact> + Send;

    /// Lists the open multipart uploads of the grant's object key.
    fn read_uploads(&mut self, access: &Access) -> impl Future<Output = UploadsFact> + Send;

    /// Returns true if another unfinished grant has a multipart upload for the object key of this grant. The two grants
    /// may refer to different stores, because two stores can use one bucket.
    fn is_contested(&self, grant: &GrantFacts) -> bool;

    /// Returns the difference between the store's clock and the operator's clock. Valet computes the difference from
    /// the time in the store's last answer.
    fn skew(&self) -> Option<SignedDuration>;

    /// Returns true if the watch has reported a version of the grant that is newer than the version that the decision
    /// used.
    ///
    /// # Errors
    /// Returns [`Error::Gone`] if the grant no longer exists.
    fn has_newer_grant(&self, grant: &GrantFacts) -> Result<bool, Error>;

    /// Returns true if the store has not changed since the decision.
    ///
    /// # Errors
    /// Returns an error if a call to the apiserver fails.
    fn is_current_store(
        &mut self,
        grant: &GrantFacts,
        view: &StoreView,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Returns true if the provider must send a request before it can sign a credential. Returns false if the provider
    /// signs without any request.
    fn signs_with_requests(&self) -> bool;

    /// Initiates a multipart upload, and returns its upload ID.
    ///
    /// # Errors
    /// Returns [`SignError`] if the store does not initiate the upload.
    fn initiate_upload(&mut self, request: &AllowedRequest)
    -> impl Future<Output = Result<String, SignError>> + Send;

    /// Signs a credential.
    ///
    /// # Errors
    /// Returns [`SignError`] if the provider does not sign.
    fn sign(&mut self, request: &AllowedRequest) -> impl Future<Output = Result<Signed, SignError>> + Send;

    /// Completes a multipart upload.
    fn complete_upload(&mut self, access: &Access, assembly: &Assembly) -> impl Future<Output = Completion> + Send;

    /// Aborts a multipart upload. It is not an error if the upload no longer exists.
    ///
    /// # Errors
    /// Returns the reason as a text if the multipart upload may still exist. The text contains no secrets.
    fn abort_upload(&mut self, upload: &AbortAccess) -> impl Future<Output = Result<(), String>> + Send;

    /// Adds the record signature to the Secret, and creates or replaces the Secret.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn write_secret(
        &mut self,
        grant: &GrantFacts,
        mode: &PublishMode,
        secret: Secret,
    ) -> impl Future<Output = Result<SecretView, Error>> + Send;

    /// Updates the labels, annotations and owner of the Secret. The data does not change.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn update_secret_metadata(
        &mut self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> impl Future<Output = Result<SecretView, Error>> + Send;

    /// Removes the data of the Secret.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] if the Secret is immutable. Returns a different error if the write fails
    /// for any other reason.
    fn empty_secret(
        &mut self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
    ) -> impl Future<Output = Result<SecretView, Error>> + Send;

    /// Deletes the Secret. Returns true if the Secret still exists, because finalizers of other programs delay the
    /// deletion. It is not an error if the Secret no longer exists.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn delete_secret(
        &mut self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Adds the record signature to the status, writes the status, and returns the new version of the grant.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn write_status(
        &mut self,
        grant: &GrantFacts,
        status: GrantStatus,
    ) -> impl Future<Output = Result<GrantFacts, Error>> + Send;

    /// Adds or removes the finalizer for multipart uploads, and returns the new version of the grant.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn write_finalizer(
        &mut self,
        grant: &GrantFacts,
        is_present: bool,
    ) -> impl Future<Output = Result<GrantFacts, Error>> + Send;

    /// Deletes the grant.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    fn delete_grant(&mut self, grant: &GrantFacts) -> impl Future<Output = Result<(), Error>> + Send;

    /// Publishes a Kubernetes Event about the grant. A failure is not an error, because the status of the grant also
    /// contains the information.
    fn publish_event(&mut self, grant: &GrantFacts, event: GrantEvent) -> impl Future<Output = ()> + Send;

    /// Remembers that this process polled the store for the grant's object at this time.
    fn remember_poll(&mut self, grant: &GrantFacts, at: Timestamp);

    /// This process remembers how often and when it restored the grant Secret. The method changes these remembered
    /// values and returns the new values.
    fn remember_repairs(&mut self, grant: &GrantFacts, change: impl FnOnce(&mut Repairs)) -> Repairs;

    /// Reads or changes the data about the grant's multipart upload that this process remembers. Only an upload that
    /// this process initiated has such data.
    fn initiated_upload<T>(
        &mut self,
        grant: &GrantFacts,
        change: impl FnOnce(&mut Option<InitiatedUpload>) -> T,
    ) -> T;

    /// Records an event for logs and metrics.
    fn note(&mut self, grant: &GrantFacts, note: Note<'_>) {
        let _ = (grant, note);
    }
}

/// The result of reading a store.
pub struct StoreReading {
    pub fact: StoreFact,
    /// If Valet cannot use the store now, this field contains the access rules of the store. The field is `None` if
    /// Valet can use the store, or if Valet does not know the access rules.
    pub rules: Option<RulesView>,
}

/// A multipart upload that this process initiated.
#[derive(Clone, Debug)]
pub struct InitiatedUpload {
    /// The store's ID of the multipart upload.
    pub id: String,
    /// True if the grant Secret contains the ID of the upload.
    pub is_recorded: bool,
}

impl InitiatedUpload {
    /// Returns the upload ID if the grant Secret does not contain this upload ID yet.
    pub fn unrecorded(upload: &Option<Self>) -> Option<String> {
        upload.as_ref().filter(|u| !u.is_recorded).map(|u| u.id.clone())
    }
}

/// An event of a reconcile, for logs and metrics.
#[derive(Debug)]
pub enum Note<'a> {
    /// A credential was signed and written to the Secret.
    CredentialIssued {
        expires_at: Timestamp,
        /// True if the grant had no credential before.
        is_first: bool,
    },
    /// Valet removed the data of a Secret that is being deleted, because finalizers delay the deletion.
    SecretEmptied,
    SecretDeleted,
    /// The store changed while Valet signed a credential, so Valet did not publish this credential.
    StoreChanged,
    /// The store was polled for the object.
    ObjectPolled(&'a ObjectFact),
    /// The store was polled for the parts of a multipart upload.
    UploadPolled(&'a UploadFact),
    UploadInitiated,
    UploadCompleted {
        parts: usize,
    },
    UploadAborted {
        parts: usize,
    },
    /// Valet stopped the cleanup of a multipart upload, so its parts stay in the store. The value is the reason.
    UploadAbandoned(&'a str),
    /// Valet could not abort a multipart upload whose ID is in no Secret. The value is the reason.
    AbortFailed(&'a str),
    GrantDeleted,
}
