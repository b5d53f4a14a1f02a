use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    multipart_upload::Assembly,
    policy::{AbortAccess, Access, AllowedRequest},
    quota_limits::QuotaLimits,
};
use crate::api::{GrantStatus, Reason};

/// The next step that the controller executes for a grant.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Valet reads the missing fact, and then decides again.
    Read(Read),
    /// Valet signs a credential, writes it to the grant Secret, and then decides again.
    Publish(Box<Publish>),
    /// Valet updates the labels, annotations and owner of the grant Secret, and then decides again. The credential
    /// does not change.
    UpdateMetadata {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
        /// The labels that the Secret must have.
        labels: BTreeMap<String, String>,
        /// The annotations that the Secret must have.
        annotations: BTreeMap<String, String>,
        /// True if the metadata was correct and a client other than Valet changed it.
        is_repair: bool,
    },
    /// Somebody has deleted the grant Secret, but finalizers delay the deletion. Valet therefore removes the data of
    /// the Secret, and then decides again.
    Empty {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
    /// Valet deletes the grant Secret, and then decides again.
    DeleteSecret {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
    /// Valet writes the grant's status and publishes an Event, and then decides again.
    Report {
        /// The complete new status.
        status: Box<GrantStatus>,
        /// The Event that Valet publishes if a user must do something.
        notice: Option<GrantEvent>,
    },
    /// Valet adds the finalizer for multipart uploads to the grant, and then decides again.
    AddFinalizer,
    /// Valet completes the multipart upload in the store, and then decides again.
    Complete(Access, Assembly),
    /// Valet aborts the multipart upload whose ID is in the grant Secret or in the status, and then decides again.
    Abort(AbortAccess),
    /// Valet aborts multipart uploads that have the grant's object key, but whose upload IDs were never in a Secret.
    /// Then Valet decides again.
    AbortOrphans(Vec<AbortAccess>),
    /// Valet removes the finalizer for multipart uploads and publishes an Event, and then decides again.
    RemoveFinalizer {
        /// The Event that Valet publishes if uploaded parts stay in the store.
        notice: Option<GrantEvent>,
    },
    /// Valet deletes the grant, because the grant has finished and its TTL has passed.
    DeleteGrant,
    /// Valet waits until the time `until`, or until the grant, its Secret or its store changes.
    Rest {
        /// The time of the next decision. `None` means that only a change causes the next decision.
        until: Option<Timestamp>,
    },
}

/// A fact that Valet must read before it can decide. If Valet must read from the store, the variant contains an
/// [`Access`]. The `Access` proves that the access rules allow this read.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// Valet reads the grant's store, with its access rules and the expiry of its credentials.
    Store,
    /// Valet reads the Secret of the grant.
    Secret,
    /// Valet finds out if the object is in the store. After that, Valet reads the multipart upload again, because the
    /// store may have completed the upload in the meantime.
    Object(Access),
    /// Valet finds out if the quota allows one more live grant. If so, Valet reserves quota for this grant until its
    /// reconcile ends.
    Quota(QuotaLimits),
    /// Valet lists the parts of the multipart upload with this upload ID. If the upload no longer exists, Valet reads
    /// the object again, because the store may have completed the upload.
    Upload(Access, String),
    /// Valet lists the multipart uploads that are in progress for the grant's object key.
    Uploads(Access),
}

/// A credential that Valet signs, and the Secret to which Valet writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Says if Valet creates or replaces the Secret.
    pub mode: PublishMode,
    pub request: AllowedRequest,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// True if Valet restores a credential that a client other than Valet deleted or changed.
    pub is_repair: bool,
}

/// Says if Valet creates the grant Secret or replaces it. Valet never uses a request that can do both. If two
/// operators write at the same time, only one of them therefore succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// Valet creates the Secret with a POST request, because the Secret does not exist.
    Create,
    /// Valet replaces the Secret with a PUT request that contains the `resourceVersion` of the Secret.
    Replace {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
}

/// An Event about a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantEvent {
    pub reason: Reason,
    /// Says what happened and what the user can do.
    pub message: String,
}
