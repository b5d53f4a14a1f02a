//! The limits of Google Cloud Storage.

/// The maximum lifetime of a signed URL, in seconds: 7 days (Google documentation, "Canonical requests",
/// `X-Goog-Expires`).
pub const MAX_EXPIRES_SECONDS: i64 = 604_800;
/// The maximum lifetime of a URL that Google's IAM signs, in seconds: 12 hours. IAM signs with keys that Google
/// replaces. The signatures of a replaced key become invalid ("projects.serviceAccounts.signBlob").
pub const MAX_EXPIRES_SECONDS_OF_IAM: i64 = 43_200;
/// The maximum size of an object is 5 TiB (Google Cloud Storage documentation, "Quotas & limits").
pub const MAX_UPLOAD_BYTES: i64 = 5 << 40;
/// The maximum length of an object key, in bytes of UTF-8 ("About Cloud Storage objects").
pub const MAX_KEY_BYTES: usize = 1024;
