//! What keys of a store that speaks S3 can be held to, as far as it is known without having tried.

use super::{MAX_EXPIRES_SECONDS, MAX_KEY_BYTES, MAX_PUT_BYTES};
use crate::api::{AssumeRole, Capabilities, Capability, Remedies};

/// Of a store with or without sessions for each key.
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
                // A form is its fields. No header of a POST asks for anything, as one of a PUT does.
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        // What a session policy says: which verb on which keys, until when.
        credentials: role.map(|_| [Capability::SignedHeadersOnly].into()),
        // The store holds each part to its size where that is known, and Valet the whole before it puts it together. The
        // checksum of an object in parts is one of its parts' checksums.
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
                "revoke the active sessions of the role that signed, which ends every other key of theirs, too"
            }
            Some(_) => "disable the access key that asks for the sessions, which ends every other key of theirs, too",
            None => "disable the access key that signed, which ends every other key that it signed, too",
        },
    }
}
