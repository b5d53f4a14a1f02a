use jiff::Timestamp;

use crate::core::lifetime::Lifetime;

/// The record of an issued credential.
pub(super) struct CredentialRecord {
    pub(super) credential: Lifetime,
    /// The lifetime in seconds that the grant's spec asked for, if Valet knows it.
    pub(super) expiration_seconds: Option<i64>,
    /// The number of credentials that Valet issued for the grant before this credential.
    pub(super) renewals: i64,
    /// The fingerprint of the store's signing credentials, if Valet knows it.
    pub(super) signed_with: Option<String>,
    /// The latest expiry of the grant's previous credentials. The value is `None` if no previous credential expires
    /// after the current credential.
    pub(super) earlier: Option<Timestamp>,
}
