//! The limits of S3 stores.

use std::time::Duration;

/// The maximum validity of a presigned URL in seconds, which is 7 days (Amazon S3 API, "Authenticating Requests: Using
/// Query Parameters", `X-Amz-Expires`).
pub const MAX_EXPIRES_SECONDS: i64 = 604_800;
/// An object that is uploaded with one PUT request can have at most 5 GiB (Amazon S3 User Guide, "Uploading
/// objects").
pub const MAX_PUT_BYTES: i64 = 5 << 30;
/// An object key can have at most this number of bytes in UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects").
pub const MAX_KEY_BYTES: usize = 1024;
/// The timeout of one request to the store. After a timeout, the store counts as unreachable.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
