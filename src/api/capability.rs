use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DownloadMode, OperationSpec, UploadMode};

/// A constraint of a grant that a store must be able to enforce.
///
/// If the store cannot enforce a constraint, Valet refuses the grant and names the capability. Valet never drops the
/// constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// The signature covers the `Content-Type` of the upload.
    ContentType,
    /// The signature covers the exact `Content-Length` of the upload.
    ContentLength,
    /// The size of the upload must be in a range.
    ContentLengthRange,
    /// The signature covers the SHA-256 of the upload, and the store checks the content.
    ChecksumSHA256,
    /// The signature covers the MD5 of the upload, and the store checks the content.
    ChecksumMD5,
    /// The store rejects an upload if the object exists.
    WriteOnce,
    /// A download can name one version of the object.
    Version,
    /// The signature covers the response headers of a download.
    ResponseHeaders,
    /// The holder of a credential for a prefix cannot write outside the prefix, however the object key is encoded.
    KeyPrefix,
    /// An upload can do only what Valet signed. Either the store rejects unsigned headers, or the signing credentials
    /// permit only the signed upload.
    SignedHeadersOnly,
}

impl Capability {
    /// Returns the name of the capability in messages and in `status.capabilities`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ContentType => "ContentType",
            Self::ContentLength => "ContentLength",
            Self::ContentLengthRange => "ContentLengthRange",
            Self::ChecksumSHA256 => "ChecksumSHA256",
            Self::ChecksumMD5 => "ChecksumMD5",
            Self::WriteOnce => "WriteOnce",
            Self::Version => "Version",
            Self::ResponseHeaders => "ResponseHeaders",
            Self::KeyPrefix => "KeyPrefix",
            Self::SignedHeadersOnly => "SignedHeadersOnly",
        }
    }
}

/// The constraints that a store can enforce, and the limits of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The constraints that the store enforces for signed URLs (PUT and GET).
    pub enforced: BTreeSet<Capability>,
    /// The constraints that the store enforces for POST forms. `None` means that the store does not support POST
    /// forms.
    pub post_form: Option<BTreeSet<Capability>>,
    /// The constraints that the store enforces for temporary credentials, in addition to the operation, the object
    /// key and the expiry. `None` means that the store does not support temporary credentials.
    pub credentials: Option<BTreeSet<Capability>>,
    /// The constraints that the store enforces for multipart uploads. `None` means that the store does not support
    /// multipart uploads.
    pub multipart: Option<BTreeSet<Capability>>,
    /// The constraints that the store enforces for resumable uploads. `None` means that the store does not support
    /// resumable uploads.
    pub resumable: Option<BTreeSet<Capability>>,
    /// A credential is valid for at most this time, in seconds.
    pub max_expiration_seconds: i64,
    /// A client can upload at most this number of bytes with one request.
    pub max_upload_bytes: i64,
    /// An object key can have at most this number of bytes in UTF-8.
    pub max_key_bytes: usize,
    /// This is true if the operator sends the store only read requests (GET and HEAD). The store then does not
    /// support upload modes for which the operator must send write requests.
    pub only_read: bool,
    /// This is true if the store accepts only uploads with a checksum.
    pub wants_checksums: bool,
    /// These texts tell the owner of the store how to enable missing capabilities. The texts use the terms of the
    /// provider.
    pub remedies: Remedies,
    /// This text tells the owner of the store how to end credentials before they expire. A condition message ends
    /// with this text.
    pub revocation: &'static str,
}

/// These texts tell the owner of the store how to enable missing capabilities. The texts use the terms of the
/// provider. Each text completes the sentence "ask the store's owner ...".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remedies {
    /// This text says how to enable temporary credentials. `None` means that the provider never supports temporary
    /// credentials.
    pub credentials: Option<&'static str>,
    /// This text says how to enable resumable uploads. `None` means that the provider never supports resumable
    /// uploads.
    pub resumable: Option<&'static str>,
    /// This text says how to ensure that an upload can do only what Valet signed.
    pub signed_headers: Option<&'static str>,
}

/// If a store accepts only uploads with a checksum, its `status.capabilities` has this entry. The entry names a
/// requirement of the store. It is not a capability that a grant can ask for.
const REQUIRES_CHECKSUM: &str = "RequiresChecksum";

impl Capabilities {
    /// Returns the constraints that the store can enforce for the mode of this grant. Returns `None` if the store
    /// does not support the mode.
    pub fn of(&self, operation_spec: &OperationSpec) -> Option<&BTreeSet<Capability>> {
        match operation_spec {
            OperationSpec::Upload {
                mode: UploadMode::PostForm,
                ..
            } => self.post_form.as_ref(),
            OperationSpec::Upload {
                mode: UploadMode::Credentials,
                ..
            }
            | OperationSpec::Download {
                mode: DownloadMode::Credentials,
                ..
            } => self.credentials.as_ref(),
            OperationSpec::Upload {
                mode: UploadMode::Multipart,
                ..
            } => self.multipart.as_ref(),
            OperationSpec::Upload {
                mode: UploadMode::Resumable,
                ..
            } => self.resumable.as_ref(),
            OperationSpec::Upload {
                mode: UploadMode::Put, ..
            }
            | OperationSpec::Download {
                mode: DownloadMode::Url,
                ..
            } => Some(&self.enforced),
        }
    }

    /// Returns the capabilities that the list `names` contains. The list has the form that [`Capabilities::listed`]
    /// returns.
    pub fn restricted_to(&self, names: &[String]) -> Self {
        let has = |name: &str| names.iter().any(|n| n == name);
        let mode = |mode: UploadMode, can: &Option<BTreeSet<Capability>>| {
            let mode = mode.as_str();
            let listed = |c: &&Capability| has(&format!("{mode}/{}", c.as_str()));
            can.as_ref()
                .filter(|_| has(mode))
                .map(|can| can.iter().filter(listed).copied().collect())
        };
        Self {
            enforced: self.enforced.iter().filter(|c| has(c.as_str())).copied().collect(),
            post_form: mode(UploadMode::PostForm, &self.post_form),
            multipart: mode(UploadMode::Multipart, &self.multipart),
            credentials: mode(UploadMode::Credentials, &self.credentials),
            resumable: mode(UploadMode::Resumable, &self.resumable),
            wants_checksums: self.wants_checksums || has(REQUIRES_CHECKSUM),
            ..self.clone()
        }
    }

    /// Returns the content of `status.capabilities`: the names of the capabilities, and what the store requires of
    /// each upload.
    pub fn listed(&self) -> Vec<String> {
        let wanted = self.wants_checksums.then(|| REQUIRES_CHECKSUM.to_owned());
        self.names().into_iter().chain(wanted).collect()
    }

    /// Returns the names of the capabilities as in `status.capabilities`. The capabilities of signed URLs come first.
    /// Then each further mode follows with its capabilities, for example `PostForm/ContentLengthRange`.
    pub fn names(&self) -> Vec<String> {
        let plain = self.enforced.iter().map(|c| c.as_str().to_owned());
        let modes = [
            (UploadMode::PostForm, &self.post_form),
            (UploadMode::Multipart, &self.multipart),
            (UploadMode::Credentials, &self.credentials),
            (UploadMode::Resumable, &self.resumable),
        ];
        let others = modes.into_iter().flat_map(|(mode, can)| {
            let mode = mode.as_str();
            can.iter().flat_map(move |can| {
                std::iter::once(mode.to_owned()).chain(can.iter().map(move |c| format!("{mode}/{}", c.as_str())))
            })
        });
        plain.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requires_checksum_is_listed_and_read_back() {
        let plain = Capabilities::default();
        let wants = Capabilities {
            wants_checksums: true,
            ..Capabilities::default()
        };
        assert_eq!(wants.listed(), [REQUIRES_CHECKSUM]);
        assert!(wants.names().is_empty(), "a grant cannot ask for RequiresChecksum");
        assert_eq!(plain.restricted_to(&wants.listed()), wants);
        assert_eq!(plain.restricted_to(&plain.listed()), plain);
    }
}
