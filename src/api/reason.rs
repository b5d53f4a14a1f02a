use strum::VariantArray;

/// Why a grant or a store is in its state. Conditions, events and metric labels share this closed list.
///
/// [`Reason::progress`] returns the kstatus result (for Helm, Argo CD and Flux) of a reason.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
pub enum Reason {
    // The grant has its credential, or is finished or suspended.
    /// The credential is in the Secret.
    Issued,
    /// The upload arrived in the store, and Valet deleted the Secret.
    Completed,
    /// The object of a write-once upload existed before a credential was issued.
    ObjectExists,
    /// The credential of a download has expired, or Valet cannot find out whether the upload arrived.
    Expired,
    /// `spec.suspend` is true, and Valet deleted the Secret.
    Suspended,
    /// `spec.revoke` is true, and the grant is finished.
    Revoked,

    // The grant waits and continues by itself.
    /// The store that the grant names does not exist.
    StoreNotFound,
    /// The store does not answer.
    StoreUnreachable,
    /// The credentials Secret of the store does not exist.
    CredentialsNotFound,
    /// The credentials Secret of the store, or the default chain, contains no usable credentials.
    CredentialsInvalid,
    /// The temporary credentials of the store have expired.
    CredentialsExpired,
    /// Kubernetes has not yet deleted the Secret of an earlier grant with the same name.
    PredecessorSecret,
    /// The apiserver rejects the grant Secret, for example because the namespace is being deleted.
    SecretNotWritable,
    /// The namespace or the store has as many live grants as `maxLiveGrants` allows.
    TooManyGrants,
    /// Another client repeatedly deletes or changes the grant Secret. Valet restores the Secret after a pause.
    SecretContested,
    /// The grant is being deleted, and a finalizer of another controller keeps it. Valet deleted the Secret.
    Deleting,

    // The grant is refused or failed, and a person must change something.
    /// The credential of an upload expired without an upload, or a refused grant reached its deadline.
    ExpiredUnused,
    /// The object in the store does not match the constraints of the grant.
    ObjectMismatch,
    /// The multipart upload no longer exists in the store, and the object does not exist.
    UploadAborted,
    /// The spec breaks a rule of its schema. The apiserver accepts such a spec if the CRD is older than the operator.
    InvalidSpec,
    /// The store has no access rule for the namespace of the grant.
    NamespaceNotAllowed,
    /// No rule for the namespace allows the operation.
    OperationNotAllowed,
    /// The object key is outside the prefixes that the rules allow.
    KeyNotAllowed,
    /// The lifetime is longer than the rules or the store allow.
    ExpirationTooLong,
    /// No rule allows renewal.
    RenewalNotAllowed,
    /// The grant has used the total time that the rules allow (`maxTotalSeconds`).
    TotalTimeReached,
    /// The content type is missing, or the rules do not allow it.
    ContentTypeNotAllowed,
    /// The size is missing, or is larger than the rules allow.
    ContentLengthNotAllowed,
    /// The store cannot enforce a constraint of the grant.
    CapabilityMissing,
    /// A Secret with this name exists and does not belong to the grant.
    SecretConflict,

    // Reasons of additional conditions and events of a grant.
    /// The credential expires earlier than requested, because the signing credentials expire.
    ExpiryTruncated,
    /// The credential expires soon, and its renewal fails.
    RenewalOverdue,
    /// The annotation `valetkey.dev/renew-requested-at` is not a valid time.
    RenewalRequestInvalid,
    /// Parts of a multipart upload may remain in the store.
    PartsLeft,
    /// The result is not known yet.
    Pending,
    /// The operator cannot find out whether the object exists.
    NotObservable,

    // Reasons of a store.
    /// The settings and credentials of the store are usable.
    Ready,
    /// The settings or access rules of the store are invalid.
    InvalidStore,
    /// The store rejects unsigned headers.
    HeadersRefused,
    /// The store obeys unsigned headers.
    HeadersObeyed,
    /// The conformance check passed: the store enforces everything that its capabilities list.
    KeysEnforced,
    /// The conformance check failed: the store does not enforce something that its capabilities list.
    KeysNotEnforced,
    /// The bucket is in another region, or the store uses another name for its region.
    RegionMismatch,
    /// The bucket does not exist.
    BucketNotFound,
    /// The store rejects the credentials.
    CredentialsRefused,
    /// The clocks of the store and of the operator differ too much for signatures.
    ClockSkewed,
    /// The endpoint of an ObjectStore has an address that is not allowed, for example a private one.
    EndpointNotAllowed,
    /// The signing credentials are temporary, and their expiry is unknown.
    ExpirationUnknown,
}

/// The state of a grant in kstatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do: `Current`.
    Current,
    /// The grant continues by itself: `InProgress`.
    InProgress,
    /// A person must change something: `Failed`.
    Stalled,
}

impl Reason {
    /// Every reason, for documentation and metrics.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// The CamelCase name in conditions, events and metric labels.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kstatus result of an object whose `Ready` condition has this reason.
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
