//! Shared access signatures for one blob: what is signed, and what stands in the URL (Azure Storage REST API, "Create a
//! service SAS" and "Create a user delegation SAS").
//!
//! The string to sign is lines, so nothing that goes into it may have one of its own. Parameters come in the order and
//! the spelling of Microsoft's own Python package, so that a test can compare whole signatures.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use crate::{api::ResponseHeaders, core::SignError};

/// The version of the service whose rules the signature follows, and by which requests with it are understood.
///
/// From 2020-12-06 to before 2025-07-05 the string to sign is the same. Of those versions this one is in every cloud of
/// Azure for years, in Azurite 3.35, and in Microsoft's Python package 12.19, against which tests compare. Anything
/// newer would bring nothing that Valet signs.
pub const VERSION: &str = "2023-11-03";

/// A storage account's key, or the secret of a user delegation key. It cannot be printed by accident.
#[derive(Clone)]
pub struct SharedKey(Arc<hmac::Key>);

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl SharedKey {
    /// Reads a key as Azure shows it, in base64; `None` if it is no such thing.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok().filter(|b| b.len() >= 16)?;
        Some(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
    }

    /// One that everybody knows, for digests of what is no secret.
    pub fn nobodys() -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, b"nobody's")))
    }

    /// A digest of a text that only this key makes. It is too short to be a signature, and its text is none of those that are
    /// signed: they begin with permissions.
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
    /// Whose rights it lends: the identity's object.
    pub object: String,
    /// And tenant.
    pub tenant: String,
    /// The first second in which it is good, as the service wrote it.
    pub start: String,
    /// Its end, as the service wrote it.
    pub expiry: String,
    /// The service that it is for: b.
    pub service: String,
    /// The version of the service that made it.
    pub version: String,
    /// What signs.
    pub value: SharedKey,
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum Pen<'a> {
    /// The account's key: a service SAS. May be tied to a stored access policy of the container.
    Account(&'a SharedKey, Option<&'a str>),
    /// An identity's delegation key: a user delegation SAS.
    Delegation(&'a DelegationKey),
}

/// What one signature permits.
#[derive(Clone, Copy, Debug)]
pub struct Permit<'a> {
    /// The storage account.
    pub account: &'a str,
    /// The container.
    pub container: &'a str,
    /// The blob, as it is called.
    pub blob: &'a str,
    /// The one version that may be read.
    pub version: Option<&'a str>,
    /// `r`, `c` or `w`.
    pub permissions: &'a str,
    /// From when; whole seconds count.
    pub start: Timestamp,
    /// Until when; whole seconds count.
    pub expiry: Timestamp,
    /// The one address, or range of addresses, from which it works.
    pub ip: Option<&'a str>,
    /// Whether plain HTTP will do.
    pub allow_http: bool,
    /// What a download answers with.
    pub response: &'a ResponseHeaders,
}

/// The query that goes behind the blob's URL.
///
/// # Errors
/// [`SignError::Refused`], if something would break the lines of what is signed.
pub fn query(permit: &Permit<'_>, pen: Pen<'_>) -> Result<String, SignError> {
    let Permit {
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
        Pen::Account(_, policy) => policy.unwrap_or_default(),
        Pen::Delegation(_) => "",
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
        Pen::Account(..) => lines.push(policy),
        Pen::Delegation(key) => {
            lines.extend([
                key.object.as_str(),
                &key.tenant,
                &key.start,
                &key.expiry,
                &key.service,
                &key.version,
            ]);
            // Who may use it besides, and a mark for the log: of hierarchical namespaces, and not used.
            lines.extend(["", "", ""]);
        }
    }
    // The last before the overrides is the encryption scope: the container's own.
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
        return Err(SignError::Refused("a control character cannot be signed".into()));
    }
    let signature = match pen {
        Pen::Account(key, _) => key,
        Pen::Delegation(delegation) => &delegation.value,
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
    if let Pen::Delegation(key) = pen {
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
    // Which version it is stands before the signature, which does not say it in the clear.
    let which = version
        .map(|v| format!("versionid={}&", encoded(v)))
        .unwrap_or_default();
    Ok(format!("{which}{}", parameters.join("&")))
}

/// A time as it stands in signatures, in whole seconds.
pub fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Percent-encodes all but what every reader leaves alone (RFC 3986, "unreserved"), and slashes.
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
