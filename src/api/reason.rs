/// Why a grant or a store is as it is: one closed list, shared by conditions, events and metric labels.
///
/// [`Reason::progress`] says what kstatus (Helm, Argo CD, Flux) makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    // A grant that did what it is for.
    /// The key is published in the Secret.
    Issued,
    /// The upload was seen in the store; the key was withdrawn.
    Completed,
    /// A write-once upload whose object was there before any key was issued.
    ObjectExists,
    /// A download key's time is over.
    Expired,
    /// The spec says that no key may be out for now.
    Suspended,
    /// The spec says that no key may be out any more.
    Revoked,

    // A grant that is on its way.
    /// The store that the grant names does not exist (yet).
    StoreNotFound,
    /// The store does not answer.
    StoreUnreachable,
    /// The store's credentials Secret does not exist (yet).
    CredentialsNotFound,
    /// The store's credentials Secret, or the default chain, holds nothing usable.
    CredentialsInvalid,
    /// The store's credentials have come to their own end.
    CredentialsExpired,
    /// The Secret of an earlier grant of the same name is still being collected.
    PredecessorSecret,
    /// The namespace is being deleted, or the apiserver refuses the Secret for now.
    SecretNotWritable,
    /// As many grants of the namespace, or of the store, have a key as may have one at a time.
    TooManyGrants,
    /// Somebody else deletes or changes the grant's Secret again and again; it is restored after a pause.
    SecretContested,
    /// The grant is being deleted, and a finalizer of somebody else's holds it; its Secret was deleted.
    Deleting,

    // A grant that needs somebody to change something.
    /// An upload key's time is over and nothing was uploaded; or the deadline of a grant passed that was refused.
    ExpiredUnused,
    /// The object in the store is not what the grant describes.
    ObjectMismatch,
    /// The upload in parts is gone from the store, and no object came of it.
    UploadAborted,
    /// The spec breaks a rule of its own schema (a CRD older than the operator lets that through).
    InvalidSpec,
    /// The store has no access rule for the grant's namespace.
    NamespaceNotAllowed,
    /// No rule for the namespace allows the operation.
    OperationNotAllowed,
    /// The key is outside the prefixes that the rules allow.
    KeyNotAllowed,
    /// The lifetime is longer than the rules or the store allow.
    ExpirationTooLong,
    /// The rules allow no renewal.
    RenewalNotAllowed,
    /// The time is over that the rules allow the grant in total.
    TotalTimeReached,
    /// The content type is missing, or not among those that the rules allow.
    ContentTypeNotAllowed,
    /// The size is missing, or larger than the rules allow.
    ContentLengthNotAllowed,
    /// The store cannot enforce a constraint of the grant.
    CapabilityMissing,
    /// A Secret of the wanted name belongs to somebody else.
    SecretConflict,

    // Remarks on a grant that has its key.
    /// The key ends earlier than was asked, because the signing credentials do.
    ExpiryTruncated,
    /// The key ends soon, and no new one could be made.
    RenewalOverdue,
    /// The annotation that asks for a new key says no time.
    RenewalRequestInvalid,
    /// Parts of an upload may be left in the store.
    PartsLeft,
    /// Nothing to see yet.
    Pending,
    /// The store does not let the operator look whether the object is there.
    NotObservable,

    // Stores.
    /// The store's settings and credentials are usable.
    Ready,
    /// A namespaced store, or a rule, is set up in a way that cannot work.
    InvalidStore,
    /// The store refuses headers that are not part of a signature.
    HeadersRefused,
    /// The store obeys headers that are not part of a signature.
    HeadersObeyed,
    /// What keys promise was tried with real ones, and the store holds them to it.
    KeysEnforced,
    /// What keys promise was tried with real ones, and the store does not hold them to all of it.
    KeysNotEnforced,
    /// The bucket is in another region, or the store has another name for its region.
    RegionMismatch,
    /// The bucket does not exist.
    BucketNotFound,
    /// The store does not take the credentials.
    CredentialsRefused,
    /// The store's clock and the operator's differ so much that signatures do not hold.
    ClockSkewed,
    /// A namespaced store's endpoint leads to an address that is not public.
    EndpointNotAllowed,
    /// The credentials that sign are temporary, and nothing says when they end.
    ExpirationUnknown,
}

/// What the grant is doing, in kstatus' terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing left to do: `Current`.
    Current,
    /// Will go on by itself: `InProgress`.
    InProgress,
    /// Somebody must change something: `Failed`.
    Stalled,
}

impl Reason {
    /// Every reason, for documentation and metrics.
    pub const ALL: [Reason; 48] = [
        Self::Issued,
        Self::Completed,
        Self::ObjectExists,
        Self::Expired,
        Self::Suspended,
        Self::Revoked,
        Self::StoreNotFound,
        Self::StoreUnreachable,
        Self::CredentialsNotFound,
        Self::CredentialsInvalid,
        Self::CredentialsExpired,
        Self::PredecessorSecret,
        Self::SecretNotWritable,
        Self::TooManyGrants,
        Self::Deleting,
        Self::ExpiredUnused,
        Self::ObjectMismatch,
        Self::UploadAborted,
        Self::InvalidSpec,
        Self::NamespaceNotAllowed,
        Self::OperationNotAllowed,
        Self::KeyNotAllowed,
        Self::ExpirationTooLong,
        Self::RenewalNotAllowed,
        Self::TotalTimeReached,
        Self::ContentTypeNotAllowed,
        Self::ContentLengthNotAllowed,
        Self::CapabilityMissing,
        Self::SecretConflict,
        Self::SecretContested,
        Self::ExpiryTruncated,
        Self::RenewalOverdue,
        Self::RenewalRequestInvalid,
        Self::PartsLeft,
        Self::Pending,
        Self::NotObservable,
        Self::Ready,
        Self::InvalidStore,
        Self::HeadersRefused,
        Self::HeadersObeyed,
        Self::KeysEnforced,
        Self::KeysNotEnforced,
        Self::RegionMismatch,
        Self::BucketNotFound,
        Self::CredentialsRefused,
        Self::ClockSkewed,
        Self::EndpointNotAllowed,
        Self::ExpirationUnknown,
    ];

    /// The CamelCase word in conditions, events and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "Issued",
            Self::Completed => "Completed",
            Self::ObjectExists => "ObjectExists",
            Self::Expired => "Expired",
            Self::Suspended => "Suspended",
            Self::Revoked => "Revoked",
            Self::StoreNotFound => "StoreNotFound",
            Self::StoreUnreachable => "StoreUnreachable",
            Self::CredentialsNotFound => "CredentialsNotFound",
            Self::CredentialsInvalid => "CredentialsInvalid",
            Self::CredentialsExpired => "CredentialsExpired",
            Self::PredecessorSecret => "PredecessorSecret",
            Self::SecretNotWritable => "SecretNotWritable",
            Self::TooManyGrants => "TooManyGrants",
            Self::Deleting => "Deleting",
            Self::ExpiredUnused => "ExpiredUnused",
            Self::ObjectMismatch => "ObjectMismatch",
            Self::UploadAborted => "UploadAborted",
            Self::InvalidSpec => "InvalidSpec",
            Self::NamespaceNotAllowed => "NamespaceNotAllowed",
            Self::OperationNotAllowed => "OperationNotAllowed",
            Self::KeyNotAllowed => "KeyNotAllowed",
            Self::ExpirationTooLong => "ExpirationTooLong",
            Self::RenewalNotAllowed => "RenewalNotAllowed",
            Self::TotalTimeReached => "TotalTimeReached",
            Self::ContentTypeNotAllowed => "ContentTypeNotAllowed",
            Self::ContentLengthNotAllowed => "ContentLengthNotAllowed",
            Self::CapabilityMissing => "CapabilityMissing",
            Self::SecretConflict => "SecretConflict",
            Self::SecretContested => "SecretContested",
            Self::ExpiryTruncated => "ExpiryTruncated",
            Self::RenewalOverdue => "RenewalOverdue",
            Self::RenewalRequestInvalid => "RenewalRequestInvalid",
            Self::PartsLeft => "PartsLeft",
            Self::Pending => "Pending",
            Self::NotObservable => "NotObservable",
            Self::Ready => "Ready",
            Self::InvalidStore => "InvalidStore",
            Self::HeadersRefused => "HeadersRefused",
            Self::HeadersObeyed => "HeadersObeyed",
            Self::KeysEnforced => "KeysEnforced",
            Self::KeysNotEnforced => "KeysNotEnforced",
            Self::RegionMismatch => "RegionMismatch",
            Self::BucketNotFound => "BucketNotFound",
            Self::CredentialsRefused => "CredentialsRefused",
            Self::ClockSkewed => "ClockSkewed",
            Self::EndpointNotAllowed => "EndpointNotAllowed",
            Self::ExpirationUnknown => "ExpirationUnknown",
        }
    }

    /// What kstatus makes of a grant whose `Ready` condition has this reason.
    pub fn progress(self) -> Progress {
        match self {
            Self::Issued
            | Self::Completed
            | Self::ObjectExists
            | Self::Expired
            | Self::Suspended
            | Self::Revoked
            | Self::Ready
            | Self::HeadersRefused
            | Self::HeadersObeyed
            | Self::KeysEnforced => Progress::Current,
            Self::StoreNotFound
            | Self::StoreUnreachable
            | Self::CredentialsNotFound
            | Self::CredentialsInvalid
            | Self::CredentialsExpired
            | Self::PredecessorSecret
            | Self::SecretNotWritable
            | Self::TooManyGrants
            | Self::SecretContested
            | Self::Deleting
            | Self::RegionMismatch
            | Self::BucketNotFound
            | Self::CredentialsRefused
            | Self::ClockSkewed
            | Self::ExpiryTruncated
            | Self::RenewalOverdue
            | Self::RenewalRequestInvalid
            | Self::PartsLeft
            | Self::Pending
            | Self::NotObservable
            | Self::ExpirationUnknown => Progress::InProgress,
            Self::ExpiredUnused
            | Self::ObjectMismatch
            | Self::UploadAborted
            | Self::InvalidSpec
            | Self::NamespaceNotAllowed
            | Self::OperationNotAllowed
            | Self::KeyNotAllowed
            | Self::ExpirationTooLong
            | Self::RenewalNotAllowed
            | Self::TotalTimeReached
            | Self::ContentTypeNotAllowed
            | Self::ContentLengthNotAllowed
            | Self::CapabilityMissing
            | Self::SecretConflict
            | Self::InvalidStore
            | Self::KeysNotEnforced
            | Self::EndpointNotAllowed => Progress::Stalled,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
