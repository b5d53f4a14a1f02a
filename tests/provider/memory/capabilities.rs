//! The constraints that the server enforces.

use valet::api::{Capabilities, Capability, Remedies};

/// A signed URL is valid for at most one day, in seconds.
pub const MAX_EXPIRES_SECONDS: i64 = 86_400;

/// Returns the capabilities of every bucket.
pub fn all() -> Capabilities {
    Capabilities {
        enforced: [
            Capability::ContentType,
            Capability::ContentLength,
            Capability::ContentLengthRange,
            Capability::ChecksumSHA256,
            Capability::WriteOnce,
            Capability::Version,
            Capability::ResponseHeaders,
            Capability::SignedHeadersOnly,
        ]
        .into(),
        post_form: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                Capability::ChecksumSHA256,
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        multipart: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                Capability::WriteOnce,
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        credentials: None,
        resumable: None,
        only_read: false,
        wants_checksums: false,
        remedies: Remedies::default(),
        max_expiration_seconds: MAX_EXPIRES_SECONDS,
        max_upload_bytes: 16 << 20,
        max_key_bytes: 1024,
        revocation: "restart the server; all credentials then stop working",
    }
}
