//! Interprets answers of Google Cloud Storage.

use http::{HeaderMap, header};
use jiff::Timestamp;

use crate::net::client::Answer;

/// Returns the store's time from the `Date` header of an answer.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(date).ok().map(|z| z.timestamp())
}

/// Returns the error code of an answer ("HTTP status and error codes for XML").
pub fn code(answer: &Answer) -> &str {
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    text.split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code)
        .filter(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric()))
        .unwrap_or_default()
}
