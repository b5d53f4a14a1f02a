//! POST forms of Google Cloud Storage ("Policy document", "Upload an object with HTML forms"). A POST form contains a
//! policy, which lists the allowed form fields. The signature covers the policy.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{Timestamp, tz::TimeZone};

use super::{
    limits::MAX_UPLOAD_BYTES,
    v4::{ALGORITHM, Scope, hex},
};
use crate::{
    api::{LengthRange, Overwrite, UploadConstraints},
    core::{Lifetime, SignError},
};

/// A placeholder in the object key of a form. The store replaces it with the name of the uploaded file.
const FILE_NAME: &str = "${filename}";

/// A condition in the policy of a POST form.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The size of the uploaded file must be in this range, in bytes.
    Range(LengthRange),
    /// The value of a form field must begin with a certain text. The first string is the name of the field, and the
    /// second string is the required beginning.
    StartsWith(String, String),
}

/// A POST form that is not signed yet.
pub struct Unsigned {
    fields: Vec<(String, String)>,
    /// The policy in base64. The signature of the form covers this text.
    pub policy: String,
}

/// Converts the constraints of an upload into the conditions of a POST form.
///
/// # Errors
/// Returns [`SignError::Refused`] for a constraint that a form cannot enforce. Normally, Valet refuses a grant with
/// such a constraint before it calls this function.
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
        return refused("Google Cloud Storage does not check SHA-256 checksums".into());
    }
    if checksum_md5.is_some() {
        return refused("a POST form of Google Cloud Storage cannot enforce a checksum".into());
    }
    if key.contains(FILE_NAME) {
        return refused(format!(
            "the object key of a POST form is not allowed to contain {FILE_NAME}, because the store replaces {FILE_NAME} with the name of the uploaded file"
        ));
    }
    let range = match (content_length, content_length_range) {
        (None, None) => LengthRange {
            min: 0,
            max: MAX_UPLOAD_BYTES,
        },
        (None, Some(range)) => *range,
        (Some(n), None) => LengthRange { min: *n, max: *n },
        (Some(_), Some(_)) => {
            return refused(
                "contentLength and contentLengthRange exclude each other; remove one of these fields".into(),
            );
        }
    };
    if range.max > MAX_UPLOAD_BYTES {
        return refused(format!("a POST form can upload at most {MAX_UPLOAD_BYTES} bytes"));
    }
    let content_type = content_type.iter().map(|t| ("Content-Type".to_owned(), t.clone()));
    Ok((content_type.collect(), range))
}

/// Prepares a POST form for signing. The policy contains each field with its value, so the store refuses requests
/// with different values or with further fields.
///
/// If the object key ends with `/`, it is a prefix. The policy then requires only that the key of the uploaded object
/// begins with the prefix. The store adds the name of the uploaded file to the prefix. The holder of the form can
/// choose any file name.
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
    let exact_size = |name: &str, value: &str| format!("{{{}:{}}}", quoted(name), quoted(value));
    let check_prefix = is_prefix.then(|| Condition::StartsWith("$key".into(), key.into()));
    let mut conditions: Vec<String> = more_conditions
        .iter()
        .chain(&check_prefix)
        .map(|condition| match condition {
            Condition::Range(range) => format!("[\"content-length-range\",{},{}]", range.min, range.max),
            Condition::StartsWith(field, start) => format!("[\"starts-with\",{},{}]", quoted(field), quoted(start)),
        })
        .collect();
    conditions.extend(more_fields.iter().map(|(name, value)| exact_size(name, value)));
    conditions.push(exact_size("bucket", bucket));
    let constrained = own.iter().filter(|(name, _)| !(is_prefix && *name == "key"));
    conditions.extend(constrained.map(|(name, value)| exact_size(name, value)));
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
    /// Adds the signature to the form and returns all form fields.
    pub fn with(self, signature: &[u8]) -> Vec<(String, String)> {
        let mut fields = self.fields;
        fields.push(("policy".into(), self.policy));
        fields.push(("x-goog-signature".into(), hex(signature)));
        fields
    }
}

/// Formats the expiry of a form in whole seconds, as the policy requires.
fn end(expires_at: Timestamp) -> String {
    let end = expires_at.to_zoned(TimeZone::UTC);
    end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns a JSON string that contains only ASCII characters, as Google's documentation requires.
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
