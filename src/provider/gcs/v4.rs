//! V4 signed URLs of Google ("V4 signing process with your own program", "Canonical requests"). The string to sign
//! describes the whole HTTP request except its body.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{Timestamp, tz::TimeZone};

use crate::core::Lifetime;

/// Google's name for the algorithm RSASSA-PKCS1-v1_5 with SHA-256.
pub const ALGORITHM: &str = "GOOG4-RSA-SHA256";

/// An HTTP request that Valet signs as a URL.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: &'static str,
    /// The URL has this scheme: `http` or `https`.
    pub scheme: String,
    /// The host of the URL, with a port if there is one.
    pub authority: String,
    /// The path of the URL. It begins with `/` and has no percent-encoding.
    pub path: String,
    /// The query parameters of the URL, without percent-encoding.
    pub query: Vec<(String, String)>,
    /// The headers that the client must send with exactly these values. Valet adds the `host` header.
    pub headers: Vec<(String, String)>,
}

/// A URL without its signature, and the string to sign.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsigned {
    url: String,
    /// The canonical request. The store builds the same text to verify the signature.
    pub canonical_request: String,
    pub string_to_sign: String,
}

/// The scope of a signature: the account that signs, and the time at which it signs.
pub struct Scope {
    /// The time at which the account signs, for example `20260102T030405Z`.
    pub time: String,
    /// The credential scope of the signature, for example `20260102/auto/storage/goog4_request`.
    pub scope: String,
    /// The account and the credential scope, separated by `/`. The URL contains this text.
    pub credential: String,
}

impl Scope {
    /// Creates the scope of a signature that `account` makes at the time `issued_at`.
    pub fn new(account: &str, issued_at: Timestamp) -> Self {
        let issued = issued_at.to_zoned(TimeZone::UTC);
        let scope = format!("{}/auto/storage/goog4_request", issued.strftime("%Y%m%d"));
        Self {
            time: issued.strftime("%Y%m%dT%H%M%SZ").to_string(),
            credential: format!("{account}/{scope}"),
            scope,
        }
    }
}

/// Builds the unsigned URL and the string to sign for a request.
pub fn prepare(request: &Request, account: &str, lifetime: Lifetime) -> Unsigned {
    let Scope {
        time,
        scope,
        credential,
    } = Scope::new(account, lifetime.issued_at);
    // Valet signs the host without its port, as Google's client libraries do. If the URL uses the default port of its
    // scheme, HTTP clients also send the Host header without a port, so both values are equal.
    let host = host(&request.authority);
    let mut headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), collapse_spaces(value)))
        .chain([("host".to_owned(), host.to_owned())])
        .collect();
    headers.sort();
    let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");

    let mut query = request.query.clone();
    let mut parameter = |name: &str, value: String| query.push((name.to_owned(), value));
    parameter("X-Goog-Algorithm", ALGORITHM.to_owned());
    parameter("X-Goog-Credential", credential);
    parameter("X-Goog-Date", time.clone());
    parameter("X-Goog-Expires", lifetime.seconds().to_string());
    parameter("X-Goog-SignedHeaders", names.clone());
    let mut query: Vec<_> = query
        .iter()
        .map(|(name, value)| (encoded(name, false), encoded(value, false)))
        .collect();
    query.sort();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = query.join("&");

    let path = encoded(&request.path, true);
    // The signature covers the body of the request only if the header `x-goog-content-sha256` contains the digest of
    // the body. Valet issues no credential with this header; docs/adr/0035 explains why.
    let payload = headers.iter().find(|(name, _)| name == "x-goog-content-sha256");
    let payload = payload.map_or("UNSIGNED-PAYLOAD", |(_, value)| value);
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let canonical_request = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{payload}", request.method);
    let string_to_sign = format!(
        "{ALGORITHM}\n{time}\n{scope}\n{}",
        hex(digest(&SHA256, canonical_request.as_bytes()).as_ref())
    );
    Unsigned {
        url: format!("{}://{}{path}?{query}", request.scheme, request.authority),
        canonical_request,
        string_to_sign,
    }
}

impl Unsigned {
    /// Adds the signature and returns the complete URL.
    pub fn with(self, signature: &[u8]) -> String {
        format!("{}&X-Goog-Signature={}", self.url, hex(signature))
    }
}

/// Returns the host of a URL authority, without the port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Converts the value of a header into the form that is signed. The function removes spaces at both ends and replaces
/// repeated spaces with one space.
fn collapse_spaces(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Percent-encodes all characters except the unreserved characters of RFC 3986. In a path, the function does not
/// encode `/`.
pub fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
