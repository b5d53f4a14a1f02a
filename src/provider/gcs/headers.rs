//! Builds the signed headers and query parameters that enforce the constraints of a grant.

use crate::{
    api::{Overwrite, ResponseHeaders, UploadConstraints},
    core::SignError,
};

/// Returns the headers that enforce the constraints of an upload with one PUT request.
pub fn put_headers(constraints: &UploadConstraints) -> Result<Vec<(String, String)>, SignError> {
    let UploadConstraints {
        content_type,
        content_length,
        content_length_range,
        checksum_sha256,
        checksum_md5,
        overwrite,
    } = constraints;
    if checksum_sha256.is_some() {
        return Err(SignError::Refused(
            "Google Cloud Storage does not check SHA-256 checksums".into(),
        ));
    }
    // Google ignores a signed Content-Length header. Therefore Valet enforces an exact length with the header for a
    // size range.
    let range = match (content_length, content_length_range) {
        (None, None) => None,
        (Some(n), None) => Some((*n, *n)),
        (None, Some(range)) => Some((range.min, range.max)),
        (Some(_), Some(_)) => {
            return Err(SignError::Refused(
                "contentLength and contentLengthRange exclude each other; remove one of these fields".into(),
            ));
        }
    };
    let headers = [
        content_type.clone().map(|t| ("content-type", t)),
        checksum_md5.clone().map(|sum| ("content-md5", sum)),
        range.map(|(min, max)| ("x-goog-content-length-range", format!("{min},{max}"))),
        (*overwrite == Overwrite::Forbid).then(|| ("x-goog-if-generation-match", "0".to_owned())),
    ];
    Ok(headers
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// Returns the error for a grant with `mode: Credentials`. This provider does not support this mode.
pub fn no_credentials() -> SignError {
    SignError::Refused("Google Cloud Storage does not support temporary credentials".into())
}

/// Returns the headers of the request that starts a resumable upload ("Initiate a resumable upload").
pub fn session_headers(constraints: &UploadConstraints) -> Result<Vec<(String, String)>, SignError> {
    if constraints.content_length.is_some() || constraints.content_length_range.is_some() {
        return Err(SignError::Refused("a resumable upload cannot enforce a size".into()));
    }
    if constraints.checksum_md5.is_some() {
        return Err(SignError::Refused(
            "a resumable upload cannot enforce a checksum".into(),
        ));
    }
    let mut headers = put_headers(constraints)?;
    headers.push(("x-goog-resumable".into(), "start".into()));
    Ok(headers)
}

/// Returns the query parameters that select the object's version and the response headers of a download.
pub fn get_query(version: Option<&String>, response: &ResponseHeaders) -> Result<Vec<(String, String)>, SignError> {
    let ResponseHeaders {
        content_type,
        content_disposition,
        content_encoding,
        content_language,
        cache_control,
    } = response;
    let unknown = [
        (content_encoding, "contentEncoding"),
        (content_language, "contentLanguage"),
        (cache_control, "cacheControl"),
    ];
    if let Some((_, field)) = unknown.iter().find(|(value, _)| value.is_some()) {
        return Err(SignError::Impossible(format!(
            "Google Cloud Storage cannot override {field} in a download; remove spec.response.{field}, or set {field} in the metadata of the object"
        )));
    }
    if let Some(version) = version
        && (version.is_empty() || version.len() > 19 || !version.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(SignError::Impossible(
            "spec.version is not an object generation of Google Cloud Storage; use the number after '#' in the output of gcloud storage ls --all-versions".into(),
        ));
    }
    let parameters = [
        ("generation", version),
        ("response-content-type", content_type.as_ref()),
        ("response-content-disposition", content_disposition.as_ref()),
    ];
    Ok(parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.clone())))
        .collect())
}
