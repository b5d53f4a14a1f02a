use strum::VariantArray;

/// The reason for the state of a grant or a store. Conditions, events and metric labels use only these reasons.
///
/// The reasons are in five groups:
///
/// - From `Issued` to `Revoked`: the grant needs no action. The credential is issued, or the grant is finished or
///   suspended.
/// - From `StoreNotFound` to `Deleting`: the grant waits. Valet tries again even if no user changes the grant.
/// - From `ExpiredUnused` to `SecretConflict`: the grant is refused or has failed. A user must change something.
/// - From `ExpiryTruncated` to `NotObservable`: additional conditions and events of a grant or a store.
/// - From `Ready` to `ExpirationUnknown`: the state of a store.
///
/// [`Reason::progress`] returns the kstatus result of a reason. Helm and Flux use kstatus. Argo CD uses its own health checks.
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
    /// The credential is in the grant Secret.
    Issued,
    /// The upload arrived in the store, and Valet deleted the grant Secret.
    Completed,
    /// The grant is for a write-once upload, but the object existed before Valet issued a credential.
    ObjectExists,
    /// The credential of a download has expired, or Valet cannot find out whether the upload arrived.
    Expired,
    /// `spec.suspend` is true, and Valet deleted the grant Secret.
    Suspended,
    /// `spec.revoke` is true, and the grant is finished.
    Revoked,

    /// The store that the grant names does not exist.
    StoreNotFound,
    /// The store does not answer.
    StoreUnreachable,
    /// The credentials Secret of the store does not exist.
    CredentialsNotFound,
    /// The credentials Secret of the store contains no usable credentials. If the store uses the default chain, the
    /// default chain has no usable credentials.
    CredentialsInvalid,
    /// The temporary credentials of the store have expired.
    CredentialsExpired,
    /// An earlier grant had the name of this grant. Kubernetes has not yet deleted the Secret of the earlier grant.
    PredecessorSecret,
    /// The apiserver rejects the grant Secret, for example because the namespace is being deleted.
    SecretNotWritable,
    /// The namespace or the store has as many live grants as `maxLiveGrants` allows.
    TooManyGrants,
    /// A client that is not Valet repeatedly deletes or changes the grant Secret. Valet waits before it restores the
    /// Secret.
    SecretContested,
    /// Somebody deleted the grant, but the finalizer of another controller keeps the grant. Valet has deleted the
    /// grant Secret.
    Deleting,

    /// The credential of an upload expired before an upload arrived, or a refused grant reached its deadline.
    ExpiredUnused,
    /// The object in the store does not match the constraints of the grant.
    ObjectMismatch,
    /// The store no longer has the multipart upload, and the object does not exist.
    UploadAborted,
    /// The spec breaks a rule of its schema. If the CRD is older than the operator, the apiserver accepts such a
    /// spec.
    InvalidSpec,
    /// The store has no access rule for the namespace of the grant.
    NamespaceNotAllowed,
    /// No access rule for the namespace allows the operation.
    OperationNotAllowed,
    /// The object key is outside the prefixes that the access rules allow.
    KeyNotAllowed,
    /// The grant requests a longer lifetime than the access rules or the store allow.
    ExpirationTooLong,
    /// No access rule allows the renewal of credentials.
    RenewalNotAllowed,
    /// The grant has reached the limit `maxTotalSeconds` of the access rules.
    TotalTimeReached,
    /// The grant does not state a content type, or the access rules do not allow its content type.
    ContentTypeNotAllowed,
    /// The grant does not state a size, or its size is larger than the access rules allow.
    ContentLengthNotAllowed,
    /// The store cannot enforce a constraint of the grant.
    CapabilityMissing,
    /// A Secret with the name of the grant Secret exists, and this Secret does not belong to the grant.
    SecretConflict,

    /// The credential expires earlier than the grant requested, because the signing credentials expire at that time.
    ExpiryTruncated,
    /// The credential expires soon, and its renewal fails.
    RenewalOverdue,
    /// The annotation `valetkey.dev/renew-requested-at` is not a valid time.
    RenewalRequestInvalid,
    /// Parts of a multipart upload may remain in the store.
    PartsLeft,
    /// Valet does not yet know the result that the condition describes.
    Pending,
    /// The operator cannot find out whether the object exists.
    NotObservable,

    /// The settings and the credentials of the store are usable.
    Ready,
    /// The settings or access rules of the store are invalid.
    InvalidStore,
    /// The store rejects unsigned headers.
    HeadersRefused,
    /// The store obeys unsigned headers.
    HeadersObeyed,
    /// The conformance check passed: the store enforces everything that its capabilities list.
    ConstraintsEnforced,
    /// The conformance check failed: the store does not enforce something that its capabilities list.
    ConstraintsNotEnforced,
    /// The bucket is in a different region than the store's spec says, or the store uses a different name for its
    /// region.
    RegionMismatch,
    /// The bucket does not exist.
    BucketNotFound,
    /// The store rejects the credentials.
    CredentialsRefused,
    /// The clocks of the store and the operator differ so much that signatures do not work.
    ClockSkewed,
    /// The endpoint of an ObjectStore has an address that the egress policy does not permit, for example a private
    /// address.
    EndpointNotAllowed,
    /// The signing credentials are temporary, and Valet does not know their expiry.
    ExpirationUnknown,
}

/// The state that kstatus shows for a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Valet has nothing left to do. kstatus shows `Current`.
    Current,
    /// The grant is not ready yet. Valet tries again even if no user changes anything. kstatus shows `InProgress`.
    InProgress,
    /// A user must change something. kstatus shows `Failed`.
    Stalled,
}

impl Reason {
    /// The list contains all reasons. The documentation and the metrics use it.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// Returns the CamelCase name of the reason in conditions, events and metric labels.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the kstatus result of an object whose condition `Ready` has this reason.
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
            | Self::ConstraintsEnforced => Progress::Current,
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
            | Self::ConstraintsNotEnforced
            | Self::EndpointNotAllowed => Progress::Stalled,
        }
    }
}
