//! POST forms: the fields that the provider signs, and the form that the server receives.

use valet::{
    api::{Overwrite, UploadConstraints},
    core::SignError,
};

use super::scheme;

/// Stores replace this text in the object key with the name of the uploaded file.
const FILE_NAME: &str = "${filename}";

/// Returns the fields of a signed form.
pub fn fields(
    (bucket, key): (&str, &str),
    constraints: &UploadConstraints,
    (access_key, secret): (&str, &str),
    expires: i64,
) -> Result<Vec<(String, String)>, SignError> {
    if constraints.overwrite == Overwrite::Forbid || constraints.checksum_md5.is_some() {
        return Err(SignError::Refused(
            "a POST form cannot be write-once and cannot contain an MD5".into(),
        ));
    }
    let object = if key.ends_with('/') {
        format!("{key}{FILE_NAME}")
    } else {
        key.to_owned()
    };
    let mut fields = vec![("key".to_owned(), object)];
    let mut field = |name: &str, value: String| fields.push((name.to_owned(), value));
    field("bucket", bucket.to_owned());
    field("allowed-key", key.to_owned());
    field("access-key", access_key.to_owned());
    field("expires", expires.to_string());
    if let Some(content_type) = &constraints.content_type {
        field("content-type", content_type.clone());
    }
    if let Some(range) = size_range(constraints) {
        field("size-range", range);
    }
    if let Some(sum) = &constraints.checksum_sha256 {
        field("sha256", sum.clone());
    }
    let signature = scheme::sign(secret, &scheme::form_to_sign(&fields));
    fields.push(("signature".to_owned(), signature));
    Ok(fields)
}

/// Returns the allowed sizes of an upload as text.
pub fn size_range(constraints: &UploadConstraints) -> Option<String> {
    let exact_size = constraints.content_length.map(|size| (size, size));
    let range = exact_size.or(constraints.content_length_range.map(|range| (range.min, range.max)));
    range.map(|(min, max)| format!("{min}-{max}"))
}

/// A form that the server received.
pub struct Posted {
    pub fields: Vec<(String, String)>,
    pub file: Vec<u8>,
    pub file_name: String,
}

impl Posted {
    /// Reads a request body of the type `multipart/form-data`.
    pub fn parse(content_type: &str, body: &[u8]) -> Option<Self> {
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=")?;
        let text = std::str::from_utf8(body).ok()?;
        let mut fields = Vec::new();
        for part in text.split(&format!("--{boundary}\r\n")).skip(1) {
            let (head, rest) = part.split_once("\r\n\r\n")?;
            let end = format!("\r\n--{boundary}--\r\n");
            let value = rest.strip_suffix(&end).or_else(|| rest.strip_suffix("\r\n"))?;
            let name = between(head, "name=\"")?;
            if name == "file" {
                return Some(Self {
                    fields,
                    file: value.into(),
                    file_name: between(head, "filename=\"")?.to_owned(),
                });
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
        None
    }

    /// Returns the value of a field. An absent field is empty.
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Returns the object key, or `None` if the form does not allow it.
    pub fn key(&self) -> Option<String> {
        let (key, allowed) = (self.field("key"), self.field("allowed-key"));
        let key = key.replace(FILE_NAME, &self.file_name);
        let is_allowed = key == allowed || allowed.ends_with('/') && key.starts_with(allowed);
        is_allowed.then_some(key)
    }
}

fn between<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split('"').next()
}
