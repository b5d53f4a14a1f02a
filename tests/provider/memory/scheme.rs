//! The signature scheme of the server. A signature is an HMAC-SHA256 with the secret of an access key. It covers the
//! method, the path, the whole query and the headers that the query names.

use aws_lc_rs::hmac;

/// The query of a signed URL ends with this parameter. The signature covers everything before it.
pub const SIGNATURE: &str = "&signature=";
/// The server refuses a request that has a header with this prefix, unless the header is signed.
pub const OWN_HEADERS: &str = "x-memory-";
/// A signed header with the allowed sizes of an upload, in the form `MIN-MAX`.
pub const SIZE_RANGE: &str = "x-memory-size-range";
/// A signed header with the SHA-256 of an upload in base64.
pub const SHA256: &str = "x-memory-sha256";

/// A request before it is signed.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: &'static str,
    /// The bucket and the object key, with a slash before each. They are not percent-encoded.
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    /// The headers that the signature covers.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the path and the query with the signature. The signature is valid until the time `expires`, in seconds
    /// since 1970.
    pub fn signed(&self, access_key: &str, secret: &str, expires: i64) -> String {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut query = self.query.clone();
        query.push(("access-key", access_key.to_owned()));
        query.push(("expires", expires.to_string()));
        query.push(("signed-headers", names.join(";")));
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value, false)))
            .collect();
        let (path, query) = (encoded(&self.path, true), query.join("&"));
        let signature = sign(secret, &string_to_sign(self.method, &path, &query, &self.headers));
        format!("{path}?{query}{SIGNATURE}{signature}")
    }
}

/// Returns the text that a signature covers. The path and the query are percent-encoded.
pub fn string_to_sign(method: &str, path: &str, query: &str, headers: &[(String, String)]) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    format!("{method}\n{path}\n{query}\n{headers}")
}

/// Returns the text that the signature of a POST form covers. The client sets the fields `key` and `signature`
/// itself. The field `allowed-key` limits the object key.
pub fn form_to_sign(fields: &[(String, String)]) -> String {
    let signed = fields.iter().filter(|(name, _)| name != "key" && name != "signature");
    let lines: String = signed
        .map(|(name, value)| format!("{}:{value}\n", name.to_ascii_lowercase()))
        .collect();
    format!("FORM\n{lines}")
}

/// Signs a text and returns the signature in hexadecimal digits.
pub fn sign(secret: &str, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encodes all characters except the unreserved characters of RFC 3986. In a path, the function does not
/// encode `/`.
pub fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Reverses [`encoded`]. Returns `None` if the text is not valid.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}
