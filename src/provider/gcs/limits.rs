//! The limits of Google Cloud Storage.

/// A signed URL is valid for at most 7 days, in seconds (Google documentation, "Canonical requests",
/// `X-Goog-Expires`).
pub const MAX_EXPIRES_SECONDS: i64 = 604_800;
/// A URL that Google's IAM signed is valid for at most 12 hours, in seconds. Google replaces the keys that IAM signs
/// with, and the signatures of an old key then become invalid ("projects.serviceAccounts.signBlob").
pub const MAX_EXPIRES_SECONDS_OF_IAM: i64 = 43_200;
/// The maximum size of an object is 5 TiB (Google Cloud Storage documentation, "Quotas & limits").
pub const MAX_UPLOAD_BYTES: i64 = 5 << 40;
/// An object key can have at most this number of bytes in UTF-8 ("About Cloud Storage objects").
pub const MAX_KEY_BYTES: usize = 1024;
