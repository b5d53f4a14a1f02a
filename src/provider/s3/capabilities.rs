//! The constraints that an S3 store can enforce, before any probe.

use super::{MAX_EXPIRES_SECONDS, MAX_KEY_BYTES, MAX_PUT_BYTES};
use crate::api::{AssumeRole, Capabilities, Capability, Remedies};

/// The capabilities of a store, with or without `assumeRole`.
pub fn of(role: Option<&AssumeRole>) -> Capabilities {
    Capabilities {
        enforced: [
            Capability::ContentType,
            Capability::ContentLength,
            Capability::ChecksumSHA256,
            Capability::ChecksumMD5,
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
                // A form consists of its fields. Unlike a PUT, a POST has no header that changes what the store does.
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        // A session policy limits operations, object keys and time.
        credentials: role.map(|_| [Capability::SignedHeadersOnly].into()),
        // The store checks the size of each part if the size is known. Valet checks the total size before it
        // completes the upload. The checksum of the object is a checksum over its parts' checksums.
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
        resumable: None,
        max_expiration_seconds: MAX_EXPIRES_SECONDS,
        only_read: false,
        wants_checksums: false,
        remedies: Remedies {
            credentials: Some("to set spec.s3.credentials.assumeRole"),
            resumable: None,
            signed_headers: Some("to set spec.s3.credentials.assumeRole, or spec.s3.unsignedHeaders: Tolerate"),
        },
        max_upload_bytes: MAX_PUT_BYTES,
        max_key_bytes: MAX_KEY_BYTES,
        revocation: match role {
            Some(AssumeRole { role_arn: Some(_), .. }) => {
                "revoke the active sessions of the role that signed, which also ends all other credentials from these sessions"
            }
            Some(_) => {
                "disable the access key that assumes the role, which also ends all other credentials from its sessions"
            }
            None => "disable the access key that signed, which also ends all other credentials that it signed",
        },
    }
}
