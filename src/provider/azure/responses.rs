use http::header;
use jiff::Timestamp;

use crate::net::client::Answer;

/// Returns the error code of an answer. Azure sends the code in a header or in the body.
pub fn error_code(answer: &Answer) -> String {
    let header = answer.headers.get("x-ms-error-code").and_then(|v| v.to_str().ok());
    let body = std::str::from_utf8(&answer.body).unwrap_or_default();
    let in_body = || Some(body.split_once("<Code>")?.1.split_once("</Code>")?.0);
    let code = header.or_else(in_body).unwrap_or_default();
    let is_code = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_code { code.to_owned() } else { String::new() }
}

/// Returns the store's time from the `Date` header of an answer.
pub fn date(answer: &Answer) -> Option<Timestamp> {
    http_date(answer.headers.get(header::DATE)?.to_str().ok()?)
}

pub fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|z| z.timestamp())
}
