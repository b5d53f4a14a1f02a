//! Shared access signatures (SAS) for one blob. This module builds the string to sign and the query of the URL
//! (Azure Storage REST API, "Create a service SAS" and "Create a user delegation SAS").
//!
//! The string to sign has one value per line, so a value must not contain a line break. The order and the spelling of
//! the parameters are the same as in Microsoft's Python package. Therefore the tests can compare complete signatures
//! with signatures of this package.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use crate::{api::ResponseHeaders, core::SignError};

/// The version of the Azure Storage API that defines the format of the SAS signature.
///
/// All versions from 2020-12-06 up to, but not including, 2025-07-05 have this format of the string to sign. Every
/// Azure cloud has supported version 2023-11-03 for years.
///
/// Azurite 3.35 and Microsoft's Python package 12.19 also support this version. The tests compare with both. Valet
/// needs no feature of a newer version.
pub const VERSION: &str = "2023-11-03";

/// An account key, or the secret of a user delegation key. The `Debug` output of this type does not show the secret.
#[derive(Clone)]
pub struct SharedKey(Arc<hmac::Key>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl SharedKey {
    /// Parses a key in base64, which is the format that Azure shows to users. Returns `None` if the text is not a
    /// valid key.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok().filter(|b| b.len() >= 16)?;
        Some(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
    }

    /// Returns a constant HMAC key that is not secret. With this key, Valet computes only fingerprints of data that is
    /// also not secret.
    pub fn without_account() -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, b"nobody's")))
    }

    /// Returns a fingerprint of a text. Only the owner of this key can compute the fingerprint.
    ///
    /// Nobody can use the fingerprint as a SAS signature, because the fingerprint is shorter than a signature. The
    /// signed texts also differ: the text of a SAS begins with permissions, and the text of a fingerprint begins with
    /// `valet`.
    pub fn print(&self, text: &str) -> String {
        let tag = hmac::sign(&self.0, format!("valet\n{text}").as_bytes());
        tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn sign(&self, text: &str) -> String {
        BASE64_STANDARD.encode(hmac::sign(&self.0, text.as_bytes()))
    }
}

/// This is a user delegation key of Azure (Azure Storage REST API, "Get User Delegation Key").
#[derive(Clone, Debug)]
pub struct DelegationKey {
    /// The object ID of the identity that this user delegation key belongs to.
    pub object: String,
    /// The tenant ID of the identity that this user delegation key belongs to.
    pub tenant: String,
    /// The time from which the user delegation key is valid, in the format that Azure returned.
    pub start: String,
    /// The time when the user delegation key expires, in the format that Azure returned.
    pub expiry: String,
    /// The Azure service that the user delegation key is for. The value `b` means Blob Storage.
    pub service: String,
    /// This version of the Azure Storage API created the user delegation key.
    pub version: String,
    /// The secret value of the user delegation key, which signs a SAS.
    pub value: SharedKey,
}

/// The key that signs a SAS: an account key or a user delegation key.
#[derive(Clone, Copy, Debug)]
pub enum SasSigner<'a> {
    /// The account key signs a service SAS. If the SAS refers to a stored access policy of the container, the string
    /// contains the name of this policy.
    Account(&'a SharedKey, Option<&'a str>),
    /// The user delegation key of the operator's identity signs a user delegation SAS.
    Delegation(&'a DelegationKey),
}

/// The values that define what one SAS allows.
#[derive(Clone, Copy, Debug)]
pub struct SasParams<'a> {
    pub account: &'a str,
    pub container: &'a str,
    /// The blob's name, without percent-encoding.
    pub blob: &'a str,
    /// If the version is set, the SAS allows reads of only this version of the blob.
    pub version: Option<&'a str>,
    /// The permissions of the SAS: `r` (read), `c` (create) or `w` (write).
    pub permissions: &'a str,
    /// The time from which the SAS is valid, in whole seconds.
    pub start: Timestamp,
    /// The time when the SAS expires, in whole seconds.
    pub expiry: Timestamp,
    /// If the value is set, only clients with this address, or in this range of addresses, can use the SAS.
    pub ip: Option<&'a str>,
    /// This is true if the SAS also works over plain HTTP.
    pub allow_http: bool,
    /// Azure adds these headers to its answer when a client downloads the blob.
    pub response: &'a ResponseHeaders,
}

/// Builds and signs the query string of the SAS. The caller appends the query string to the blob's URL.
///
/// # Errors
/// Returns [`SignError::Refused`] if a value contains a control character, because each line of the signed text
/// contains one value.
pub fn query(params: &SasParams<'_>, signer: SasSigner<'_>) -> Result<String, SignError> {
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
    } = *params;
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
    let policy = match signer {
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
    match signer {
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
            // The next three lines of the signed text are for the object IDs of an authorized and an unauthorized
            // user, and for a correlation ID. Only accounts with a hierarchical namespace support these values. Valet
            // does not use the values, so the lines are empty.
            lines.extend(["", "", ""]);
        }
    }
    // The last of these lines is for the encryption scope. It is empty, so Azure uses the encryption scope of the
    // container. The lines for the response headers follow after this list.
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
            "the URL cannot be signed, because one of the signed values contains a control character".into(),
        ));
    }
    let signature = match signer {
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
    if let SasSigner::Delegation(key) = signer {
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
    // The URL must name the blob's version in a parameter, because Azure cannot read the version from the signature.
    let which = version
        .map(|v| format!("versionid={}&", encoded(v)))
        .unwrap_or_default();
    Ok(format!("{which}{}", parameters.join("&")))
}

/// Formats a time in whole seconds, as a SAS requires.
pub fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Percent-encodes all characters except slashes and the unreserved characters of RFC 3986.
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
