use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    facts::ArrivedPart,
    key::ObjectKey,
    lifetime::Lifetime,
    policy::{AbortAccess, Access, AllowedRequest},
    quota::QuotaLimits,
};
use crate::api::{Ask, GrantStatus, Reason};

/// The next step for a grant.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read the missing fact, then decide again.
    Read(Read),
    /// Sign, write the Secret, then decide again.
    Publish(Box<Publish>),
    /// Update the Secret's labels, annotations and owner without changing the credential, then decide again.
    UpdateMetadata {
        /// UID of the Secret that the decision is based on.
        uid: String,
        /// Resource version of that Secret.
        resource_version: String,
        /// The labels that the Secret must have.
        labels: BTreeMap<String, String>,
        /// The annotations that the Secret must have.
        annotations: BTreeMap<String, String>,
        /// Whether another client changed correct metadata.
        is_repair: bool,
    },
    /// Remove the data of a Secret that finalizers keep after its deletion, then decide again.
    Empty {
        /// UID of the Secret that the decision is based on.
        uid: String,
        /// Resource version of that Secret.
        resource_version: String,
    },
    /// Delete the Secret, then decide again.
    DeleteSecret {
        /// UID of the Secret that the decision is based on.
        uid: String,
        /// Resource version of that Secret.
        resource_version: String,
    },
    /// Write the status and an event, then decide again.
    Report {
        /// The complete new status.
        status: Box<GrantStatus>,
        /// The event, if a user must act.
        notice: Option<GrantEvent>,
    },
    /// Add the multipart upload finalizer to the grant, then decide again.
    AddFinalizer,
    /// Complete the multipart upload in the store, then decide again.
    Complete(Access, Assembly),
    /// Abort the multipart upload that the grant's Secret or status records, then decide again.
    Abort(AbortAccess),
    /// Abort multipart uploads of the grant's object key that were never recorded in a Secret, then decide again.
    AbortOrphans(Vec<AbortAccess>),
    /// Remove the finalizer, write an event, then decide again.
    RemoveFinalizer {
        /// The event, if parts stay in the store.
        notice: Option<GrantEvent>,
    },
    /// Delete the grant: it has finished and its TTL has passed.
    DeleteGrant,
    /// Nothing to do before this time, unless something changes.
    Rest {
        /// When to decide again.
        until: Option<Timestamp>,
    },
}

/// A fact that a decision needs first. Reads from the store carry the proof that the access rules allow them.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// The grant's store, with its access rules and the expiry of its credentials.
    Store,
    /// The metadata of the grant Secret.
    Secret,
    /// Whether the object is in the store. The fact about a multipart upload becomes unknown, because the upload may
    /// have become the object meanwhile.
    Object(Access),
    /// Whether the quota allows one more live grant. The place stays reserved for this grant until its reconcile
    /// ends.
    Quota(QuotaLimits),
    /// Which parts of this multipart upload are in the store. If the upload is gone, the fact about the object
    /// becomes unknown.
    Upload(Access, String),
    /// Which multipart uploads of the grant's object key are in progress.
    Uploads(Access),
}

/// The parts with which a multipart upload is completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// The store's ID of the multipart upload.
    pub upload: String,
    /// All parts of the object, in order.
    pub parts: Vec<ArrivedPart>,
    /// Whether an existing object must not be replaced.
    pub write_once: bool,
}

/// A credential to sign and the Secret to write it into.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Whether to create or replace the Secret.
    pub mode: PublishMode,
    /// The request to sign.
    pub request: AllowedRequest,
    /// The Secret's labels.
    pub labels: BTreeMap<String, String>,
    /// The Secret's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether this restores a credential that another client deleted or changed.
    pub is_repair: bool,
}

/// How to write the Secret. It is never an upsert, so that of two concurrent writers only one succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// The Secret does not exist: POST.
    Create,
    /// Replace this Secret: PUT with its `resourceVersion`.
    Replace {
        /// UID of the Secret that the decision is based on.
        uid: String,
        /// Resource version of that Secret.
        resource_version: String,
    },
}

/// What a provider signs: everything that the credential permits. A grant's request is an [`AllowedRequest`]. Checks
/// of a store make their own requests, for objects of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRequest {
    /// The object key.
    pub key: ObjectKey,
    /// The operation with all its constraints.
    pub ask: Ask,
    /// Start and end of the validity, in whole seconds.
    pub lifetime: Lifetime,
    /// The holder as `namespace.name` of the grant, for providers that log it.
    pub holder: String,
    /// The store's ID of the multipart upload, if one was initiated.
    pub upload: Option<String>,
}

/// An event on a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantEvent {
    /// The reason of the event.
    pub reason: Reason,
    /// What happened and what to do.
    pub message: String,
}
