use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ask, DownloadMode, UploadMode};

/// Something that a grant may ask for and that a store must be able to enforce.
///
/// A grant that asks for what its store cannot enforce is refused by this name, never weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// The upload's `Content-Type` is part of the signature.
    ContentType,
    /// The upload's exact `Content-Length` is part of the signature.
    ContentLength,
    /// The upload's length must lie in a range.
    ContentLengthRange,
    /// The upload's SHA-256 is part of the signature and the store checks the bytes against it.
    ChecksumSHA256,
    /// The upload's MD5 is part of the signature and the store checks the bytes against it.
    ChecksumMD5,
    /// An upload onto an existing object is refused.
    WriteOnce,
    /// A download names one version of the object.
    Version,
    /// A download's response headers are part of the signature.
    ResponseHeaders,
    /// An upload that is for everything below a key reaches nothing else, however the object's key is spelled.
    KeyPrefix,
    /// An upload can do nothing that was not signed: the store refuses headers that are not part of the signature, or
    /// the credentials that sign can do nothing else.
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

/// What a store can enforce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What the store's signed URLs (PUT and GET) can pin down.
    pub enforced: BTreeSet<Capability>,
    /// What its POST forms can pin down; `None` if it takes no forms.
    pub post_form: Option<BTreeSet<Capability>>,
    /// What temporary credentials of its can be held to, beyond verb, keys and time; `None` if it hands out none.
    pub credentials: Option<BTreeSet<Capability>>,
    /// What its uploads in parts can be held to; `None` if it takes none.
    pub multipart: Option<BTreeSet<Capability>>,
    /// What its resumable uploads can be held to; `None` if it takes none.
    pub resumable: Option<BTreeSet<Capability>>,
    /// The longest lifetime of one key, in seconds.
    pub max_expiration_seconds: i64,
    /// The largest object that one request may carry, in bytes.
    pub max_upload_bytes: i64,
    /// The longest key, in bytes of UTF-8.
    pub max_key_bytes: usize,
    /// Whether the operator sends the store only requests that change nothing, so that uploads which take other ones of its own are
    /// not offered.
    pub only_read: bool,
    /// Whether the store takes an upload only with a checksum.
    pub wants_checksums: bool,
    /// What can be done about what is missing, in the provider's own terms.
    pub remedies: Remedies,
    /// What the store's owner can do to end keys before their time, as the end of a sentence.
    pub revocation: &'static str,
}

/// What can be done about what a store cannot enforce, in its provider's own terms, each as the rest of "ask the store's owner".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remedies {
    /// So that it hands out temporary credentials; `None`: such a store never does.
    pub credentials: Option<&'static str>,
    /// So that it takes resumable uploads; `None`: such a store never does.
    pub resumable: Option<&'static str>,
    /// So that an upload does nothing but what is signed.
    pub signed_headers: Option<&'static str>,
}

/// The name in `status.capabilities` of a store that takes an upload only with a checksum. What it wants of a grant, and nothing
/// that a grant can ask for.
const REQUIRES_CHECKSUM: &str = "RequiresChecksum";

impl Capabilities {
    /// What a key for this can pin down; `None` if the store has no keys of that kind.
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

    /// These as far as the names list them, in the form of [`Capabilities::listed`].
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

    /// All that `status.capabilities` lists: the names, and what the store wants of each upload.
    pub fn listed(&self) -> Vec<String> {
        let wanted = self.wants_checksums.then(|| REQUIRES_CHECKSUM.to_owned());
        self.names().into_iter().chain(wanted).collect()
    }

    /// The names in `status.capabilities`: what signed URLs can pin down, then the other modes, each
    /// followed by what its keys can pin down, as `PostForm/ContentLengthRange`.
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
    fn that_a_store_wants_checksums_is_listed_and_read_back() {
        let plain = Capabilities::default();
        let wants = Capabilities {
            wants_checksums: true,
            ..Capabilities::default()
        };
        assert_eq!(wants.listed(), [REQUIRES_CHECKSUM]);
        assert!(wants.names().is_empty(), "it is nothing that a grant asks for");
        assert_eq!(plain.among(&wants.listed()), wants);
        assert_eq!(plain.among(&plain.listed()), plain);
    }
}
