use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    facts::ArrivedPart,
    key::ObjectKey,
    lifetime::Lifetime,
    policy::{AbortAccess, Access, AllowedRequest},
    quota::QuotaLimits,
};
use crate::api::{Ask, GrantStatus, ObservedObject, Reason};

/// The next step that the controller executes for a grant.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read the missing fact, and then decide again.
    Read(Read),
    /// Sign a credential, write it to the Secret, and then decide again.
    Publish(Box<Publish>),
    /// Update the Secret's labels, annotations and owner without changing the credential, and then decide again.
    UpdateMetadata {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
        /// The labels that the Secret must have.
        labels: BTreeMap<String, String>,
        /// The annotations that the Secret must have.
        annotations: BTreeMap<String, String>,
        /// True if another client changed metadata that was correct before.
        is_repair: bool,
    },
    /// Remove the data of a Secret that finalizers keep after its deletion, and then decide again.
    Empty {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
    /// Delete the Secret, and then decide again.
    DeleteSecret {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
    /// Write the status and an Event, and then decide again.
    Report {
        /// The complete new status.
        status: Box<GrantStatus>,
        /// The Event, if a user must do something.
        notice: Option<GrantEvent>,
    },
    /// Add the finalizer for multipart uploads to the grant, and then decide again.
    AddFinalizer,
    /// Complete the multipart upload in the store, and then decide again.
    Complete(Access, Assembly),
    /// Abort the multipart upload that the grant's Secret or status records, and then decide again.
    Abort(AbortAccess),
    /// Abort multipart uploads of the grant's object key that no Secret has ever recorded, and then decide again.
    AbortOrphans(Vec<AbortAccess>),
    /// Remove the finalizer for multipart uploads, write an Event, and then decide again.
    RemoveFinalizer {
        /// The Event, if uploaded parts stay in the store.
        notice: Option<GrantEvent>,
    },
    /// Delete the grant, because it has finished and its TTL has passed.
    DeleteGrant,
    /// Do nothing before this time, unless the grant, its Secret or its store changes.
    Rest {
        /// The time of the next decision. `None` means that only a change causes the next decision.
        until: Option<Timestamp>,
    },
}

/// A fact that Valet must read before it can decide. A read from the store contains an [`Access`], which proves that
/// the access rules allow the read.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// Read the grant's store, with its access rules and the expiry of its credentials.
    Store,
    /// Read the Secret of the grant.
    Secret,
    /// Find out if the object is in the store. Valet then drops its facts about the multipart upload, because the
    /// upload may have become the object in the meantime.
    Object(Access),
    /// Find out if the quota allows one more live grant. If so, quota stays reserved for this grant until its
    /// reconcile ends.
    Quota(QuotaLimits),
    /// List the parts of this multipart upload. If the upload no longer exists, Valet drops its facts about the
    /// object.
    Upload(Access, String),
    /// List the multipart uploads that are in progress for the grant's object key.
    Uploads(Access),
}

/// The parts from which the store assembles the object of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// The store's ID of the multipart upload.
    pub upload: String,
    /// All parts of the object, in order.
    pub parts: Vec<ArrivedPart>,
    /// True if the store must not replace an existing object.
    pub write_once: bool,
}

/// The result of a request that completes a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The upload is completed. The object has the properties that the store returned.
    Done(ObservedObject),
    /// An object with this key exists and must not be replaced. An earlier attempt to complete the upload can have
    /// written it.
    Exists,
    /// The store does not know the upload. Either an earlier attempt completed it, or somebody aborted it.
    Gone,
    /// The store refuses to complete the upload. The message contains no secrets.
    Refused(String),
    /// The store did not answer or had an internal error. The upload can be completed nevertheless.
    Unreachable(String),
}

/// A credential to sign, and the Secret into which it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Says if Valet creates or replaces the Secret.
    pub mode: PublishMode,
    pub request: AllowedRequest,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// True if Valet restores a credential that another client deleted or changed.
    pub is_repair: bool,
}

/// The way to write the Secret. Valet never uses an upsert. Therefore only one of two concurrent writers succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// Create the Secret with a POST request, because it does not exist.
    Create,
    /// Replace the Secret with a PUT request that contains its `resourceVersion`.
    Replace {
        /// The UID of the Secret on which the decision is based.
        uid: String,
        /// The resource version of the Secret on which the decision is based.
        resource_version: String,
    },
}

/// What a provider signs: everything that a credential permits. The request of a grant is wrapped in an
/// [`AllowedRequest`]. Probes and conformance checks of a store create requests for their own objects.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRequest {
    pub key: ObjectKey,
    /// The operation with all its constraints.
    pub ask: Ask,
    /// The start and end of the credential's validity, in whole seconds.
    pub lifetime: Lifetime,
    /// The holder of the credential as `namespace.name` of the grant, for providers that log it.
    pub holder: String,
    /// The store's ID of the multipart upload, if Valet has initiated one.
    pub upload: Option<String>,
}

/// An Event about a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantEvent {
    pub reason: Reason,
    /// Says what happened and what the user can do.
    pub message: String,
}
