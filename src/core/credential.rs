//! What a grant receives: a signed URL, a form, the URLs of a multipart upload, or temporary credentials. No value of these types
//! can be printed, logged or serialised by accident.

use std::fmt;

use thiserror::Error;

use crate::api::{Part, Reason};

/// A signed URL: whoever reads it holds the key. It cannot be printed, logged or serialised by accident; its one
/// way out is [`SignedUrl::expose`], for the Secret's data.
pub struct SignedUrl(String);

impl SignedUrl {
    /// Takes a URL out of sight.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL itself. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The fields of a signed form, names and values, the signature among them: as much a key as a URL is, and kept out of
/// sight in the same way.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Takes fields out of sight.
    pub fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// The fields themselves. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Entries of a Secret's data, names and values, credentials among them: kept out of sight in the same way.
pub struct Entries(Vec<(&'static str, String)>);

impl Entries {
    /// Takes entries out of sight.
    pub fn new(entries: Vec<(&'static str, String)>) -> Self {
        Self(entries)
    }

    /// The entries themselves. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Names and values of headers, in the order in which they are to be told.
pub type Headers = Vec<(String, String)>;

/// What a workload is handed: everything but the bytes.
#[derive(Debug)]
pub struct Signed {
    /// The key itself.
    pub key: Key,
    /// The provider's name.
    pub provider: &'static str,
}

impl Signed {
    /// The one URL of a key that has one.
    pub fn url(&self) -> Option<&SignedUrl> {
        match &self.key {
            Key::Request { url, .. } | Key::Form { url, .. } => Some(url),
            Key::Parts(_) | Key::Credentials(_) => None,
        }
    }

    /// The headers that have to be sent to it.
    pub fn headers(&self) -> &[(String, String)] {
        match &self.key {
            Key::Request { headers, .. } => headers,
            Key::Form { .. } | Key::Parts(_) | Key::Credentials(_) => &[],
        }
    }

    /// The fields of a key that is a form.
    pub fn form(&self) -> Option<&Form> {
        match &self.key {
            Key::Form { fields, .. } => Some(fields),
            Key::Request { .. } | Key::Parts(_) | Key::Credentials(_) => None,
        }
    }
}

/// A key, in one of the shapes that it can have.
#[derive(Debug)]
pub enum Key {
    /// One request.
    Request {
        /// Where.
        url: SignedUrl,
        /// The HTTP method.
        method: String,
        /// Headers to be sent to the letter: those that are part of the signature, and what the provider wants besides.
        headers: Headers,
    },
    /// A POST form.
    Form {
        /// Where it is sent.
        url: SignedUrl,
        /// Its fields, to be sent in this order and before the file.
        fields: Form,
    },
    /// The parts of an upload, in order, each with a PUT of its own.
    Parts(Vec<SignedPart>),
    /// Temporary credentials: entries of the Secret's data, by name, with what clients need besides.
    Credentials(Entries),
}

/// Why nothing was signed. Messages carry no URL and no credential.
#[derive(Clone, Debug, Error)]
pub enum SignError {
    /// No usable credentials.
    #[error("{message}")]
    Credentials {
        /// From the one list.
        reason: Reason,
        /// For the store's owner.
        message: String,
    },
    /// This store can never sign this, whatever the credentials: for the tenant.
    #[error("{0}")]
    Impossible(String),
    /// The request cannot be expressed as a signed URL of this provider.
    #[error("the signer refused: {0}")]
    Refused(String),
}

/// A part and where to send it.
#[derive(Debug)]
pub struct SignedPart {
    /// Which one, and of what size.
    pub part: Part,
    /// Where.
    pub url: SignedUrl,
    /// Headers that are part of the signature: to be sent to the letter.
    pub headers: Headers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let url = SignedUrl::new("https://store/x?X-Amz-Signature=abc".into());
        assert_eq!(format!("{url:?} {:#?}", Some(&url)).matches("abc").count(), 0);
        let form = Form::new(vec![("x-amz-signature".into(), "abc".into())]);
        assert_eq!(format!("{form:?} {:#?}", Some(&form)).matches("abc").count(), 0);
        let entries = Entries::new(vec![("AWS_SECRET_ACCESS_KEY", "abc".into())]);
        assert_eq!(format!("{entries:?} {:#?}", Some(&entries)).matches("abc").count(), 0);
    }
}
