//! POST forms ("Policy document", "Upload an object with HTML forms"): a policy that says what the form may carry, and a
//! signature over the policy.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{Timestamp, tz::TimeZone};

use super::{
    MAX_UPLOAD_BYTES,
    v4::{ALGORITHM, Scope},
};
use crate::{
    api::{LengthRange, Overwrite, UploadConstraints},
    core::{Lifetime, SignError},
};

/// In a form's key, the store puts the name of the file in place of this.
const FILE_NAME: &str = "${filename}";

/// A condition of a policy.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The file has so many bytes.
    Range(LengthRange),
    /// The field begins with this.
    StartsWith(String, String),
}

/// A form that is not signed yet.
pub struct Unsigned {
    fields: Vec<(String, String)>,
    /// What is signed: the policy in base64.
    pub policy: String,
}

/// What the form must say for these constraints.
///
/// # Errors
/// [`SignError::Refused`] for what no form can enforce; the judgement does not let such a grant come here.
pub fn conditions(
    key: &str,
    constraints: &UploadConstraints,
) -> Result<(Vec<(String, String)>, LengthRange), SignError> {
    let UploadConstraints {
        content_type,
        content_length,
        content_length_range,
        checksum_sha256,
        checksum_md5,
        overwrite,
    } = constraints;
    let refused = |why: String| Err(SignError::Refused(why));
    if *overwrite == Overwrite::Forbid {
        return refused("a POST form cannot be write-once".into());
    }
    if checksum_sha256.is_some() {
        return refused("Google Cloud Storage checks no SHA-256".into());
    }
    if checksum_md5.is_some() {
        return refused("a form of Google Cloud Storage is held to no checksum".into());
    }
    if key.contains(FILE_NAME) {
        return refused(format!(
            "a form's key may not contain {FILE_NAME}, which stores replace"
        ));
    }
    let range = match (content_length, content_length_range) {
        (None, None) => LengthRange {
            min: 0,
            max: MAX_UPLOAD_BYTES,
        },
        (None, Some(range)) => *range,
        (Some(n), None) => LengthRange { min: *n, max: *n },
        (Some(_), Some(_)) => return refused("contentLength and contentLengthRange exclude each other".into()),
    };
    if range.max > MAX_UPLOAD_BYTES {
        return refused(format!("one form carries at most {MAX_UPLOAD_BYTES} bytes"));
    }
    let content_type = content_type.iter().map(|t| ("Content-Type".to_owned(), t.clone()));
    Ok((content_type.collect(), range))
}

/// Puts a form together. Every field is in the policy with its one value, so the store refuses any other value and any
/// other field. Only a key that ends with '/' is pinned by its beginning: the form then names the object by its file, and
/// its holder may name it otherwise.
pub fn prepare(
    (bucket, key): (&str, &str),
    more_fields: &[(String, String)],
    more_conditions: &[Condition],
    account: &str,
    lifetime: Lifetime,
) -> Unsigned {
    let scope = Scope::new(account, lifetime.issued_at);
    let is_prefix = key.ends_with('/');
    let by_file = format!("{key}{FILE_NAME}");
    let own = [
        ("key", if is_prefix { by_file.as_str() } else { key }),
        ("x-goog-date", &scope.time),
        ("x-goog-credential", &scope.credential),
        ("x-goog-algorithm", ALGORITHM),
    ];
    let exactly = |name: &str, value: &str| format!("{{{}:{}}}", quoted(name), quoted(value));
    let below = is_prefix.then(|| Condition::StartsWith("$key".into(), key.into()));
    let mut conditions: Vec<String> = more_conditions
        .iter()
        .chain(&below)
        .map(|condition| match condition {
            Condition::Range(range) => format!("[\"content-length-range\",{},{}]", range.min, range.max),
            Condition::StartsWith(field, start) => format!("[\"starts-with\",{},{}]", quoted(field), quoted(start)),
        })
        .collect();
    conditions.extend(more_fields.iter().map(|(name, value)| exactly(name, value)));
    conditions.push(exactly("bucket", bucket));
    let pinned = own.iter().filter(|(name, _)| !(is_prefix && *name == "key"));
    conditions.extend(pinned.map(|(name, value)| exactly(name, value)));
    let policy = format!(
        "{{\"conditions\":[{}],\"expiration\":{}}}",
        conditions.join(","),
        quoted(&end(lifetime.expires_at))
    );
    let mut fields: Vec<(String, String)> = own
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    fields.splice(1..1, more_fields.iter().cloned());
    Unsigned {
        fields,
        policy: BASE64_STANDARD.encode(policy),
    }
}

impl Unsigned {
    /// The form's fields, whole.
    pub fn with(self, signature: &[u8]) -> Vec<(String, String)> {
        let mut fields = self.fields;
        fields.push(("policy".into(), self.policy));
        fields.push(("x-goog-signature".into(), super::v4::hex(signature)));
        fields
    }
}

/// Whole seconds, as everywhere.
fn end(expires_at: Timestamp) -> String {
    let end = expires_at.to_zoned(TimeZone::UTC);
    end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A JSON string in ASCII alone, as the documentation asks for.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
