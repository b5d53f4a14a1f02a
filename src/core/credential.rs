//! The types of credentials that a grant can receive: a signed URL, a POST form, the URLs of a multipart upload, and
//! temporary credentials. Code cannot print, log or serialise the contents of these types by accident.

use std::fmt;

use thiserror::Error;

use crate::api::{Part, Reason};

/// A signed URL. Anyone who reads a signed URL can use it. Code therefore cannot print, log or serialise this type by
/// accident. Only [`SignedUrl::expose`] returns the URL as text.
pub struct SignedUrl(String);

impl SignedUrl {
    /// Wraps the text of a signed URL.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// Returns the text of the URL. Only code that writes the Secret's data should call this method.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The fields of a signed POST form, as names and values. The fields contain the signature, so code cannot print this
/// type by accident.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Wraps the fields of a signed form.
    pub fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// Returns the form fields. Only code that writes the Secret's data should call this method.
    pub fn expose(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Entries of a Secret's data, as names and values. The entries contain credentials, so code cannot print this type
/// by accident.
pub struct Entries(Vec<(&'static str, String)>);

impl Entries {
    /// Wraps entries of a Secret's data.
    pub fn new(entries: Vec<(&'static str, String)>) -> Self {
        Self(entries)
    }

    /// Returns the data entries. Only code that writes the Secret's data should call this method.
    pub fn expose(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The names and values of HTTP headers, in the order in which Valet writes them to the Secret.
pub type Headers = Vec<(String, String)>;

/// A signed credential and the name of the provider that signed it.
#[derive(Debug)]
pub struct Signed {
    pub credential: Credential,
    /// The provider's name. Valet writes it to the Secret entry `provider`.
    pub provider: &'static str,
}

impl Signed {
    /// Returns the URL of the credential. Returns `None` if the credential has no URL or several URLs.
    pub fn url(&self) -> Option<&SignedUrl> {
        match &self.credential {
            Credential::Request { url, .. } | Credential::Form { url, .. } => Some(url),
            Credential::Parts(_) | Credential::Credentials(_) => None,
        }
    }

    /// Returns the headers that a client must send to the URL.
    pub fn headers(&self) -> &[(String, String)] {
        match &self.credential {
            Credential::Request { headers, .. } => headers,
            Credential::Form { .. } | Credential::Parts(_) | Credential::Credentials(_) => &[],
        }
    }

    /// Returns the form fields, if the credential is a POST form.
    pub fn form(&self) -> Option<&Form> {
        match &self.credential {
            Credential::Form { fields, .. } => Some(fields),
            Credential::Request { .. } | Credential::Parts(_) | Credential::Credentials(_) => None,
        }
    }
}

/// A credential, with one variant for each way to access an object.
#[derive(Debug)]
pub enum Credential {
    /// A signed URL for one request.
    Request {
        url: SignedUrl,
        method: String,
        /// The headers that a client must send exactly as given: the signed headers, and headers that the provider
        /// requires.
        headers: Headers,
    },
    /// A signed POST form.
    Form {
        /// The address to which a client sends the form.
        url: SignedUrl,
        /// The form fields. A client must send them in this order, before the file.
        fields: Form,
    },
    /// The parts of a multipart upload in order. Each part has its own URL for a PUT request.
    Parts(Vec<SignedPart>),
    /// Temporary credentials, as entries of the Secret's data. Clients also need the region, the endpoint and the
    /// bucket, so the entries include these values.
    Credentials(Entries),
}

/// The reason why Valet did not sign a credential. The message of an error contains no URL and no credential.
#[derive(Clone, Debug, Error)]
pub enum SignError {
    /// The store has no credentials that Valet can sign with.
    #[error("{message}")]
    Credentials {
        /// The reason for the condition in the status.
        reason: Reason,
        /// The message for the store's owner.
        message: String,
    },
    /// The provider of the store can never sign this request, whatever credentials the store has. The text is a message
    /// for the tenant.
    #[error("{0}")]
    Impossible(String),
    /// The provider cannot express the request as a signed URL.
    #[error("the signer refused: {0}")]
    Refused(String),
}

/// A part of a multipart upload and its signed URL.
#[derive(Debug)]
pub struct SignedPart {
    pub part: Part,
    /// The signed URL for a PUT request with the bytes of the part.
    pub url: SignedUrl,
    /// The signed headers. A client must send them exactly as given.
    pub headers: Headers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_contains_no_credential() {
        let url = SignedUrl::new("https://store/x?X-Amz-Signature=abc".into());
        assert_eq!(format!("{url:?} {:#?}", Some(&url)).matches("abc").count(), 0);
        let form = Form::new(vec![("x-amz-signature".into(), "abc".into())]);
        assert_eq!(format!("{form:?} {:#?}", Some(&form)).matches("abc").count(), 0);
        let entries = Entries::new(vec![("AWS_SECRET_ACCESS_KEY", "abc".into())]);
        assert_eq!(format!("{entries:?} {:#?}", Some(&entries)).matches("abc").count(), 0);
    }
}
