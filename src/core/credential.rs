//! What a grant receives: a signed URL, a form, the URLs of a multipart upload, or temporary credentials. These types
//! cannot be printed, logged or serialised by accident.

use std::fmt;

use thiserror::Error;

use crate::api::{Part, Reason};

/// A signed URL. Anyone who reads it can use it, so it cannot be printed, logged or serialised by accident. Only
/// [`SignedUrl::expose`] returns the text, for the Secret's data.
pub struct SignedUrl(String);

impl SignedUrl {
    /// Wraps a URL.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// Returns the URL. Only code that writes the Secret's data may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The fields of a signed form, as names and values. They include the signature, so they cannot be printed by
/// accident.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Wraps form fields.
    pub fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// Returns the fields. Only code that writes the Secret's data may call this.
    pub fn expose(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Entries of a Secret's data, as names and values. They contain credentials, so they cannot be printed by accident.
pub struct Entries(Vec<(&'static str, String)>);

impl Entries {
    /// Wraps data entries.
    pub fn new(entries: Vec<(&'static str, String)>) -> Self {
        Self(entries)
    }

    /// Returns the entries. Only code that writes the Secret's data may call this.
    pub fn expose(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Names and values of headers, in the order in which they are written to the Secret.
pub type Headers = Vec<(String, String)>;

/// A signed credential and its provider.
#[derive(Debug)]
pub struct Signed {
    /// The credential.
    pub credential: Credential,
    /// The provider's name, for the Secret entry `provider`.
    pub provider: &'static str,
}

impl Signed {
    /// The URL, if the credential has exactly one.
    pub fn url(&self) -> Option<&SignedUrl> {
        match &self.credential {
            Credential::Request { url, .. } | Credential::Form { url, .. } => Some(url),
            Credential::Parts(_) | Credential::Credentials(_) => None,
        }
    }

    /// The headers that must be sent to the URL.
    pub fn headers(&self) -> &[(String, String)] {
        match &self.credential {
            Credential::Request { headers, .. } => headers,
            Credential::Form { .. } | Credential::Parts(_) | Credential::Credentials(_) => &[],
        }
    }

    /// The form fields, if the credential is a POST form.
    pub fn form(&self) -> Option<&Form> {
        match &self.credential {
            Credential::Form { fields, .. } => Some(fields),
            Credential::Request { .. } | Credential::Parts(_) | Credential::Credentials(_) => None,
        }
    }
}

/// A credential in one of its forms.
#[derive(Debug)]
pub enum Credential {
    /// One request.
    Request {
        /// The signed URL.
        url: SignedUrl,
        /// The HTTP method.
        method: String,
        /// Headers that must be sent exactly as given: the signed ones, and those that the provider requires.
        headers: Headers,
    },
    /// A POST form.
    Form {
        /// The address that the form is sent to.
        url: SignedUrl,
        /// The fields. They must be sent in this order, before the file.
        fields: Form,
    },
    /// The parts of a multipart upload in order, each with its own PUT URL.
    Parts(Vec<SignedPart>),
    /// Temporary credentials, as entries of the Secret's data, with the region, endpoint and bucket that clients
    /// need.
    Credentials(Entries),
}

/// Why nothing was signed. The messages contain no URL and no credential.
#[derive(Clone, Debug, Error)]
pub enum SignError {
    /// No usable credentials.
    #[error("{message}")]
    Credentials {
        /// The reason for the condition.
        reason: Reason,
        /// The message for the store's owner.
        message: String,
    },
    /// The store can never sign this request, with any credentials. The message is for the tenant.
    #[error("{0}")]
    Impossible(String),
    /// The provider cannot express the request as a signed URL.
    #[error("the signer refused: {0}")]
    Refused(String),
}

/// A part of a multipart upload and its signed URL.
#[derive(Debug)]
pub struct SignedPart {
    /// The part's number and size.
    pub part: Part,
    /// The signed URL.
    pub url: SignedUrl,
    /// Signed headers. They must be sent exactly as given.
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
