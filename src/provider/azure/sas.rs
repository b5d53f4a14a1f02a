//! Shared access signatures for one blob: the string to sign and the query of the URL (Azure Storage REST API,
//! "Create a service SAS" and "Create a user delegation SAS").
//!
//! The string to sign consists of lines, so its values may not contain line breaks. Parameters have the order and
//! spelling of Microsoft's Python package, so tests can compare complete signatures.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use crate::{api::ResponseHeaders, core::SignError};

/// The version of the service whose rules apply to the signature and to requests with it.
///
/// The string to sign is the same from version 2020-12-06 until before 2025-07-05. This version has been in every
/// Azure cloud for years. Azurite 3.35 supports it, and Microsoft's Python package 12.19, against which tests
/// compare. Valet needs nothing from newer versions.
pub const VERSION: &str = "2023-11-03";

/// An account key, or the secret of a user delegation key. Its `Debug` output does not show the secret.
#[derive(Clone)]
pub struct SharedKey(Arc<hmac::Key>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl SharedKey {
    /// Parses a key in base64, as Azure shows it. `None` if the text is not a key.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok().filter(|b| b.len() >= 16)?;
        Some(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
    }

    /// A public, constant key, for fingerprints of data that is not secret.
    pub fn nobodys() -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, b"nobody's")))
    }

    /// A fingerprint of a text that only this key can create. It is shorter than a signature. Its text differs from
    /// all strings to sign, because those begin with permissions.
    pub fn print(&self, text: &str) -> String {
        let tag = hmac::sign(&self.0, format!("valet\n{text}").as_bytes());
        tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn sign(&self, text: &str) -> String {
        BASE64_STANDARD.encode(hmac::sign(&self.0, text.as_bytes()))
    }
}

/// A user delegation key ("Get User Delegation Key").
#[derive(Clone, Debug)]
pub struct DelegationKey {
    /// The object ID of the identity that the key belongs to.
    pub object: String,
    /// The tenant ID of the identity.
    pub tenant: String,
    /// The start of the key's validity, as the service wrote it.
    pub start: String,
    /// The expiry of the key, as the service wrote it.
    pub expiry: String,
    /// The service that the key is for: `b` (Blob Storage).
    pub service: String,
    /// The version of the service that created the key.
    pub version: String,
    /// The secret that signs.
    pub value: SharedKey,
}

/// The key that signs a SAS.
#[derive(Clone, Copy, Debug)]
pub enum SasSigner<'a> {
    /// The account key, for a service SAS. The SAS can refer to a stored access policy of the container.
    Account(&'a SharedKey, Option<&'a str>),
    /// The user delegation key of an identity, for a user delegation SAS.
    Delegation(&'a DelegationKey),
}

/// What one SAS allows.
#[derive(Clone, Copy, Debug)]
pub struct SasParams<'a> {
    pub account: &'a str,
    pub container: &'a str,
    /// The blob's name, not encoded.
    pub blob: &'a str,
    /// The only version of the blob that may be read.
    pub version: Option<&'a str>,
    /// The permissions: `r` (read), `c` (create) or `w` (write).
    pub permissions: &'a str,
    /// The start time, in whole seconds.
    pub start: Timestamp,
    /// The expiry, in whole seconds.
    pub expiry: Timestamp,
    /// The client address or range of addresses that may use the SAS.
    pub ip: Option<&'a str>,
    /// Whether the SAS also works over plain HTTP.
    pub allow_http: bool,
    /// The response headers of a download.
    pub response: &'a ResponseHeaders,
}

/// The query to append to the blob's URL.
///
/// # Errors
/// [`SignError::Refused`] if a value contains a control character, which would break the lines of the string to sign.
pub fn query(permit: &SasParams<'_>, pen: SasSigner<'_>) -> Result<String, SignError> {
    let SasParams {
        account,
        container,
        blob,
        version,
        permissions,
        start,
        expiry,
        ip,
        allow_http,
        response,
    } = *permit;
    let ResponseHeaders {
        content_type,
        content_disposition,
        content_encoding,
        content_language,
        cache_control,
    } = response;
    let (start, expiry) = (second(start), second(expiry));
    let resource = format!("/blob/{account}/{container}/{blob}");
    let protocol = if allow_http { "" } else { "https" };
    let kind = if version.is_some() { "bv" } else { "b" };
    let policy = match pen {
        SasSigner::Account(_, policy) => policy.unwrap_or_default(),
        SasSigner::Delegation(_) => "",
    };
    let or_empty = |text: &'_ Option<String>| text.clone().unwrap_or_default();
    let overrides = [
        ("rscc", or_empty(cache_control)),
        ("rscd", or_empty(content_disposition)),
        ("rsce", or_empty(content_encoding)),
        ("rscl", or_empty(content_language)),
        ("rsct", or_empty(content_type)),
    ];

    let mut lines = vec![permissions, &start, &expiry, &resource];
    match pen {
        SasSigner::Account(..) => lines.push(policy),
        SasSigner::Delegation(key) => {
            lines.extend([
                key.object.as_str(),
                &key.tenant,
                &key.start,
                &key.expiry,
                &key.service,
                &key.version,
            ]);
            // These lines are for other users and a correlation ID, which only hierarchical namespaces have. Valet
            // does not use them.
            lines.extend(["", "", ""]);
        }
    }
    // The line before the response headers is the encryption scope. Empty means the container's own.
    lines.extend([
        ip.unwrap_or_default(),
        protocol,
        VERSION,
        kind,
        version.unwrap_or_default(),
        "",
    ]);
    lines.extend(overrides.iter().map(|(_, value)| value.as_str()));
    if lines.iter().any(|line| line.chars().any(char::is_control)) {
        return Err(SignError::Refused(
            "a value contains a control character, so it cannot be signed".into(),
        ));
    }
    let signature = match pen {
        SasSigner::Account(key, _) => key,
        SasSigner::Delegation(delegation) => &delegation.value,
    }
    .sign(&lines.join("\n"));

    let mut parameters = vec![
        ("st", start.as_str()),
        ("se", &expiry),
        ("sp", permissions),
        ("sip", ip.unwrap_or_default()),
        ("spr", protocol),
        ("sv", VERSION),
        ("si", policy),
        ("sr", kind),
    ];
    parameters.extend(overrides.iter().map(|(name, value)| (*name, value.as_str())));
    if let SasSigner::Delegation(key) = pen {
        parameters.extend([
            ("skoid", key.object.as_str()),
            ("sktid", &key.tenant),
            ("skt", &key.start),
            ("ske", &key.expiry),
            ("sks", &key.service),
            ("skv", &key.version),
        ]);
    }
    parameters.push(("sig", &signature));
    let parameters: Vec<_> = parameters
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    // The version is in the URL before the signature, because the signature does not contain it in readable form.
    let which = version
        .map(|v| format!("versionid={}&", encoded(v)))
        .unwrap_or_default();
    Ok(format!("{which}{}", parameters.join("&")))
}

/// A time in the format of signatures, in whole seconds.
pub fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Percent-encodes everything except slashes and the unreserved characters of RFC 3986.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
