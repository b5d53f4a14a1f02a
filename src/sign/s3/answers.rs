//! What a store's answers say, without anything that a request or an answer carried.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef},
    error::SdkError,
    operation::head_object::HeadObjectOutput,
    types::ServerSideEncryption,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use super::{LOOK_TIMEOUT, lock};
use crate::{
    grant::ObjectFact,
    sign::{Inward, SignError, http::untrusted},
};

/// Why nothing was signed.
pub fn refused<E>(error: &SdkError<E>) -> SignError {
    // Building a request can only fail for what is missing in it; the debug text would carry the request.
    SignError::Refused(match error {
        SdkError::ConstructionFailure(_) => {
            "the request could not be built (bucket, region or endpoint is unusable)".into()
        }
        _ => "the request could not be signed".into(),
    })
}

/// An object's entity tag in base64, if it can be its MD5: neither that of an upload in parts, which has a '-', nor that of an
/// object that is encrypted by other keys than the store's own ("Common Response Headers", `ETag`).
pub fn tag_as_md5(head: &HeadObjectOutput) -> Option<String> {
    let by_the_store = matches!(head.server_side_encryption(), None | Some(ServerSideEncryption::Aes256));
    if !by_the_store || head.sse_customer_algorithm().is_some() {
        return None;
    }
    let tag = head.e_tag()?.trim_matches('"');
    let digit = |at: usize| char::from(*tag.as_bytes().get(at)?).to_digit(16);
    if tag.len() != 32 {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..16)
        .map(|n| u8::try_from(digit(2 * n)? * 16 + digit(2 * n + 1)?).ok())
        .collect();
    Some(BASE64_STANDARD.encode(bytes?))
}

/// Whether it is a bucket of Amazon's whose entity tags are what Amazon documents them to be. Those of directory buckets
/// (`--x-s3`) are not.
pub fn is_amazons(endpoint: Option<&str>, bucket: &str) -> bool {
    let host = endpoint.map(|e| {
        let rest = e.split_once("://").map_or(e, |(_, rest)| rest);
        rest.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase()
    });
    let is_amazon = host.is_none_or(|h| h.ends_with(".amazonaws.com") || h.ends_with(".amazonaws.com.cn"));
    is_amazon && !bucket.ends_with("--x-s3")
}

/// What a failed HEAD says. The answer has no body, so only its status speaks.
pub fn absence<E: std::error::Error + 'static>(error: &SdkError<E>) -> ObjectFact {
    match error.raw_response().map(|r| r.status().as_u16()) {
        Some(404) => ObjectFact::Absent,
        Some(401 | 403) => ObjectFact::Hidden,
        _ => ObjectFact::Unreachable(unreachable(error)),
    }
}

/// Why there was no usable answer, without anything that the request or the answer carried.
pub fn unreachable<E: std::error::Error + 'static>(error: &SdkError<E>) -> String {
    if let Some(inward) = inward(error) {
        return inward.to_string();
    }
    if let Some(why) = untrusted(error) {
        return why.into();
    }
    let seconds = LOOK_TIMEOUT.as_secs();
    match (error.raw_response().map(|r| r.status().as_u16()), error) {
        (Some(status @ (301 | 307 | 400)), _) => {
            format!("it answered {status}; check the store's region, endpoint and addressingStyle")
        }
        (Some(status), _) => format!("it answered {status}"),
        (None, SdkError::TimeoutError(_)) => format!("no answer within {seconds} s"),
        (None, SdkError::DispatchFailure(f)) if f.is_timeout() => format!("no connection within {seconds} s"),
        (None, SdkError::DispatchFailure(f)) if f.is_io() => {
            "the connection failed (refused, reset, or the host is not known)".into()
        }
        (None, SdkError::DispatchFailure(_)) => "the request could not be sent (TLS, or the endpoint)".into(),
        (None, _) => "the answer was not understood".into(),
    }
}

/// Whether the request was not sent because it would have gone inwards.
fn inward<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Inward> {
    std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref())
}

/// Keeps the `Date` of an answer: the store's own idea of now, against which an object's age is counted.
#[derive(Clone, Debug, Default)]
pub struct DateOfAnswer(Arc<Mutex<Option<Timestamp>>>);

impl DateOfAnswer {
    /// The time, if an answer came and said it.
    pub fn seen(&self) -> Option<Timestamp> {
        *lock(&self.0)
    }
}

impl Intercept for DateOfAnswer {
    fn name(&self) -> &'static str {
        "DateOfAnswer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let date = context.response().headers().get("date");
        let date = date
            .and_then(|d| jiff::fmt::rfc2822::parse(d).ok())
            .map(|z| z.timestamp());
        *lock(&self.0) = date;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_that_can_be_md5s() {
        const TAG: &str = "5d41402abc4b2a76b9719d911017c592";
        let of = |tag: &str, by: Option<&str>, customer: Option<&str>| {
            let head = HeadObjectOutput::builder()
                .e_tag(tag)
                .set_server_side_encryption(by.map(ServerSideEncryption::from))
                .set_sse_customer_algorithm(customer.map(str::to_owned));
            tag_as_md5(&head.build())
        };
        let md5 = Some("XUFAKrxLKna5cZ2REBfFkg==".to_owned());
        for (tag, by) in [
            (format!("\"{TAG}\""), None),
            (TAG.to_owned(), Some("AES256")),
            (TAG.to_ascii_uppercase(), None),
        ] {
            assert_eq!(of(&tag, by, None), md5, "{tag} {by:?}");
        }
        for (tag, by, customer) in [
            (format!("{TAG}-1"), None, None),
            (TAG.replace('5', "x"), None, None),
            (TAG[1..].to_owned(), None, None),
            (format!("{}é", &TAG[2..]), None, None),
            (String::new(), None, None),
            (TAG.to_owned(), Some("aws:kms"), None),
            (TAG.to_owned(), Some("aws:kms:dsse"), None),
            (TAG.to_owned(), Some("something new"), None),
            (TAG.to_owned(), None, Some("AES256")),
        ] {
            assert_eq!(of(&tag, by, customer), None, "{tag} {by:?} {customer:?}");
        }
        assert_eq!(tag_as_md5(&HeadObjectOutput::builder().build()), None);
    }

    #[test]
    fn whose_entity_tags_are_believed() {
        for (endpoint, bucket, expected) in [
            (None, "media", true),
            (Some("https://s3.eu-west-1.amazonaws.com"), "media", true),
            (Some("https://S3.CN-NORTH-1.AMAZONAWS.COM.CN:443/"), "media", true),
            (
                Some("https://bucket.vpce-1a.s3.us-east-1.vpce.amazonaws.com"),
                "media",
                true,
            ),
            (None, "media--use1-az4--x-s3", false),
            (Some("http://127.0.0.1:9000"), "media", false),
            (Some("https://amazonaws.com.example"), "media", false),
            (Some("https://s3.example/.amazonaws.com"), "media", false),
            (Some("https://notamazonaws.com"), "media", false),
        ] {
            assert_eq!(is_amazons(endpoint, bucket), expected, "{endpoint:?} {bucket}");
        }
    }
}
