//! The constraints that Azure Blob Storage can enforce. Valet assumes these capabilities until a probe has tested the
//! store.

use super::{
    credentials::Credentials,
    limits::{MAX_EXPIRATION_SECONDS, MAX_KEY_BYTES, MAX_PUT_BYTES},
};
use crate::api::{Capabilities, Capability, Remedies, store::azure::AzureBlobStore};

/// Returns the capabilities of an Azure store. They depend on the credentials that sign the SAS URLs of the store.
pub fn of(store: &AzureBlobStore, credentials: &Credentials) -> Capabilities {
    let revocation = match (credentials, &store.stored_access_policy) {
        (Credentials::Identity(_), _) => {
            "revoke the user delegation keys of the storage account, or remove the role of the operator's identity; all other credentials of the store also become invalid"
        }
        (_, Some(_)) => {
            "remove the stored access policy that spec.azureBlob.storedAccessPolicy names; all other credentials of the store also become invalid"
        }
        (_, None) => {
            "regenerate the account key that signed the credential; all other credentials with this account key also become invalid"
        }
    };
    Capabilities {
        enforced: [
            Capability::WriteOnce,
            Capability::Version,
            Capability::ResponseHeaders,
            Capability::SignedHeadersOnly,
        ]
        .into(),
        remedies: Remedies {
            signed_headers: Some("to set spec.azureBlob.unsignedHeaders: Tolerate"),
            ..Remedies::default()
        },
        max_expiration_seconds: MAX_EXPIRATION_SECONDS,
        max_upload_bytes: MAX_PUT_BYTES,
        max_key_bytes: MAX_KEY_BYTES,
        revocation,
        ..Capabilities::default()
    }
}
