use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ask, DownloadMode, UploadMode};

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
    /// An upload below a prefix cannot write outside the prefix, in any encoding of the object key.
    KeyPrefix,
    /// An upload can do only what is signed. Either the store rejects unsigned headers, or the signing credentials
    /// permit nothing else.
    SignedHeadersOnly,
}

impl Capability {
    /// The name in messages and in `status.capabilities`.
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

/// What a store can enforce, and its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What the signed URLs (PUT and GET) of the store can enforce.
    pub enforced: BTreeSet<Capability>,
    /// What POST forms can enforce; `None` if the store does not support POST forms.
    pub post_form: Option<BTreeSet<Capability>>,
    /// What temporary credentials can enforce besides operation, object key and expiry; `None` if the store does not
    /// support temporary credentials.
    pub credentials: Option<BTreeSet<Capability>>,
    /// What multipart uploads can enforce; `None` if the store does not support multipart uploads.
    pub multipart: Option<BTreeSet<Capability>>,
    /// What resumable uploads can enforce; `None` if the store does not support resumable uploads.
    pub resumable: Option<BTreeSet<Capability>>,
    /// The longest lifetime of one credential, in seconds.
    pub max_expiration_seconds: i64,
    /// The largest object that one request can upload, in bytes.
    pub max_upload_bytes: i64,
    /// The longest object key, in bytes of UTF-8.
    pub max_key_bytes: usize,
    /// Whether the operator sends the store only requests that change nothing (GET and HEAD). Upload modes that need
    /// other requests of the operator are then not available.
    pub only_read: bool,
    /// Whether the store accepts uploads only with a checksum.
    pub wants_checksums: bool,
    /// How the owner of the store can enable what is missing, in the provider's terms.
    pub remedies: Remedies,
    /// How the owner of the store can end credentials before they expire. The text is the end of a sentence.
    pub revocation: &'static str,
}

/// How the owner of the store can enable what the store cannot enforce, in the provider's terms. Each text completes
/// the sentence "ask the store's owner ...".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remedies {
    /// How to enable temporary credentials; `None` if such a store never supports them.
    pub credentials: Option<&'static str>,
    /// How to enable resumable uploads; `None` if such a store never supports them.
    pub resumable: Option<&'static str>,
    /// How to ensure that an upload can do only what is signed.
    pub signed_headers: Option<&'static str>,
}

/// The entry of `status.capabilities` for a store that accepts uploads only with a checksum. It is a requirement of
/// the store. A grant cannot ask for it.
const REQUIRES_CHECKSUM: &str = "RequiresChecksum";

impl Capabilities {
    /// What a credential for this grant can enforce; `None` if the store does not support the mode.
    pub fn of(&self, ask: &Ask) -> Option<&BTreeSet<Capability>> {
        match ask {
            Ask::Upload {
                mode: UploadMode::PostForm,
                ..
            } => self.post_form.as_ref(),
            Ask::Upload {
                mode: UploadMode::Credentials,
                ..
            }
            | Ask::Download {
                mode: DownloadMode::Credentials,
                ..
            } => self.credentials.as_ref(),
            Ask::Upload {
                mode: UploadMode::Multipart,
                ..
            } => self.multipart.as_ref(),
            Ask::Upload {
                mode: UploadMode::Resumable,
                ..
            } => self.resumable.as_ref(),
            Ask::Upload {
                mode: UploadMode::Put, ..
            }
            | Ask::Download {
                mode: DownloadMode::Url,
                ..
            } => Some(&self.enforced),
        }
    }

    /// The capabilities that the names list, in the form of [`Capabilities::listed`].
    pub fn among(&self, names: &[String]) -> Self {
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

    /// The content of `status.capabilities`: the names, and what the store requires of each upload.
    pub fn listed(&self) -> Vec<String> {
        let wanted = self.wants_checksums.then(|| REQUIRES_CHECKSUM.to_owned());
        self.names().into_iter().chain(wanted).collect()
    }

    /// The names in `status.capabilities`. First come the capabilities of signed URLs. Then come the other modes,
    /// each followed by its capabilities, for example `PostForm/ContentLengthRange`.
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
        assert_eq!(plain.among(&wants.listed()), wants);
        assert_eq!(plain.among(&plain.listed()), plain);
    }
}
