//! The constraints that Google Cloud Storage can enforce. Valet assumes these capabilities until a probe has tested the
//! store.

use super::{
    limits::{MAX_EXPIRES_SECONDS, MAX_EXPIRES_SECONDS_OF_IAM, MAX_KEY_BYTES, MAX_UPLOAD_BYTES},
    signing_account::GcsSigner,
};
use crate::api::{
    Capabilities, Capability, Remedies,
    store::gcs::{GcsStore, ResumableUploads},
};

/// Returns the capabilities of a Google Cloud Storage bucket. Some of them depend on `signing_key`, which says whether
/// a service account key or Google's IAM signs.
pub fn of(store: &GcsStore, signing_key: &GcsSigner) -> Capabilities {
    Capabilities {
        enforced: [
            Capability::ContentType,
            Capability::ContentLength,
            Capability::ContentLengthRange,
            Capability::ChecksumMD5,
            Capability::WriteOnce,
            Capability::Version,
            Capability::ResponseHeaders,
            Capability::SignedHeadersOnly,
        ]
        .into(),
        multipart: None,
        // In a resumable upload, Google enforces only these constraints. Google ignores all further signed headers of
        // the upload session.
        resumable: (store.resumable_uploads == ResumableUploads::Tolerate).then(|| {
            [
                Capability::ContentType,
                Capability::WriteOnce,
                Capability::SignedHeadersOnly,
            ]
            .into()
        }),
        post_form: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                // All settings of a POST form are form fields, so an unsigned header cannot change what the store does.
                // An unsigned header of a PUT request could change what the store does.
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        credentials: None,
        only_read: false,
        wants_checksums: false,
        remedies: Remedies {
            resumable: Some("to set spec.gcs.resumableUploads: Tolerate"),
            ..Remedies::default()
        },
        max_expiration_seconds: match signing_key {
            GcsSigner::Key(_) => MAX_EXPIRES_SECONDS,
            GcsSigner::Google(_) => MAX_EXPIRES_SECONDS_OF_IAM,
        },
        max_upload_bytes: MAX_UPLOAD_BYTES,
        max_key_bytes: MAX_KEY_BYTES,
        revocation: match signing_key {
            GcsSigner::Key(_) => {
                "delete the service account key that signed the credential; all other credentials with this service account key also become invalid"
            }
            GcsSigner::Google(_) => {
                "revoke the signing service account's permissions on the object, or disable this service account; if you disable it, all other credentials that it signed also become invalid"
            }
        },
    }
}
