//! The constraints that an S3 store can enforce. Valet assumes these capabilities until a probe has tested the store.

use super::limits::{MAX_EXPIRES_SECONDS, MAX_KEY_BYTES, MAX_PUT_BYTES};
use crate::api::{Capabilities, Capability, Remedies, store::s3::AssumeRole};

/// Returns the capabilities of a store. They depend on the setting `assumeRole`. `role` is `None` if the store does not
/// use it.
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
                // All settings of a POST form are form fields, so no unsigned header can change what the store does.
                // For a PUT request, some unsigned headers can change what the store does.
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        // A session policy limits the operations, the object keys and the time of temporary credentials.
        credentials: role.map(|_| [Capability::SignedHeadersOnly].into()),
        // If the size of a part is known, the store checks this size. Valet checks the total size before it completes
        // the upload. In a multipart upload, the store computes the object's checksum from the checksums of the parts.
        // Therefore the store cannot compare the content with a checksum of the whole object.
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
                "revoke the active sessions of the role that signed the credential; all other credentials from these sessions also stop working"
            }
            Some(_) => {
                "disable the access key that assumes the role; all other credentials from sessions of this access key also stop working"
            }
            None => {
                "disable the access key that signed the credential; all other credentials of this access key also stop working"
            }
        },
    }
}
