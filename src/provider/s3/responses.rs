//! Interprets answers and errors of S3 stores. The messages that result contain no text from a request or an answer.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::head_object::HeadObjectOutput,
    types::ServerSideEncryption,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::LengthLimitError;
use jiff::Timestamp;

use super::limits::REQUEST_TIMEOUT;
use crate::{
    core::{ObjectFact, SignError},
    net::EgressDenied,
    net::aws::MAX_ANSWER,
    net::client::{Unanswered, certificate_problem},
    provider::{clock::StoreClock, lock::lock},
};

/// The maximum length of an identifier that Valet accepts from a store, in bytes. Known stores use much shorter
/// identifiers.
const LONGEST_NAME: usize = 1024;
/// The maximum length of an error code that Valet accepts from a store, in bytes.
const LONGEST_CODE: usize = 64;

/// Returns an error code if it is a single word, as all documented error codes are. Valet needs this check because the
/// owner of a store can choose the text of the code, and messages show this text.
pub fn printable_code(code: &str) -> Option<&str> {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    ((1..=LONGEST_CODE).contains(&code.len()) && code.bytes().all(is_word)).then_some(code)
}

/// Returns true if Valet accepts an identifier that the store returned, such as an upload ID. Valet keeps the
/// identifier and sends it in later requests to the store.
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Converts an SDK error into a [`SignError`].
pub fn refused<E>(error: &SdkError<E>) -> SignError {
    // The AWS SDK cannot build a request if a required value is missing. Valet does not show the debug text of this
    // error, because the text would contain the request.
    SignError::Refused(match error {
        SdkError::ConstructionFailure(_) => {
            "the request to the store could not be built; check spec.s3.bucket, spec.s3.region and spec.s3.endpoint"
                .into()
        }
        _ => "the request could not be signed".into(),
    })
}

/// Returns an object's entity tag in base64 if this entity tag can be the object's MD5. An entity tag with `-` is from
/// a multipart upload and is not an MD5. If the object is encrypted with SSE-KMS or SSE-C, the entity tag is not an MD5
/// either ("Common Response Headers", `ETag`).
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

/// Converts the error of a failed HEAD request. The answer to HEAD has no body, so Valet uses only the status of the
/// answer.
pub fn absence<E: std::error::Error + 'static>(error: &SdkError<E>) -> ObjectFact {
    match error.raw_response().map(|r| r.status().as_u16()) {
        Some(404) => ObjectFact::Absent,
        Some(401 | 403) => ObjectFact::Hidden,
        _ => ObjectFact::Unreachable(unreachable(error)),
    }
}

/// Returns true if the store refused, or possibly refused, the request because of the time in the request (Amazon S3
/// API Reference, "Error responses").
pub fn is_clock_error<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let code = error.as_service_error().and_then(|e| e.code());
    matches!(
        code,
        Some("RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" | "InvalidSignatureException")
    )
}

/// Describes why there was no usable answer. The description contains no text from the request or the answer.
pub fn unreachable<E: std::error::Error + 'static>(error: &SdkError<E>) -> String {
    if let Some(egress_denied) = egress_denied(error) {
        return egress_denied.to_string();
    }
    if let Some(why) = certificate_problem(error) {
        return why.into();
    }
    if causes(error).any(|e| e.is::<LengthLimitError>()) {
        return format!(
            "the server's answer has more than {MAX_ANSWER} bytes; check that the endpoint is an object store"
        );
    }
    let hyper = causes(error).find_map(|e| e.downcast_ref::<hyper::Error>());
    if hyper.is_some_and(hyper::Error::is_parse_too_large) {
        return Unanswered::TooLong.to_string();
    }
    let seconds = REQUEST_TIMEOUT.as_secs();
    match (error.raw_response().map(|r| r.status().as_u16()), error) {
        (Some(status @ (301 | 307 | 400)), _) => {
            format!(
                "the store answered status {status}; check spec.s3.region, spec.s3.endpoint and spec.s3.addressingStyle"
            )
        }
        (Some(status), _) => format!("the store answered status {status}"),
        (None, SdkError::TimeoutError(_)) => format!("no answer within {seconds} s"),
        (None, SdkError::DispatchFailure(f)) if f.is_timeout() => format!("no connection within {seconds} s"),
        (None, SdkError::DispatchFailure(f)) if f.is_io() => {
            "the connection to the server failed (connection refused or reset, or unknown host)".into()
        }
        (None, SdkError::DispatchFailure(_)) => {
            "the request to the store could not be sent; check the endpoint and the TLS certificate of the endpoint"
                .into()
        }
        (None, _) => "the server's answer is not a valid S3 answer; check that the endpoint is an S3 store".into(),
    }
}

/// Returns the [`EgressDenied`] error if the egress policy did not permit the address of the request. Otherwise it
/// returns `None`.
fn egress_denied<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a EgressDenied> {
    causes(error).find_map(|e| e.downcast_ref())
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

/// Keeps the time from the `Date` header of an answer. Valet computes the age of an object relative to this time.
#[derive(Clone, Debug, Default)]
pub struct DateOfAnswer(Arc<Mutex<Option<Timestamp>>>);

impl DateOfAnswer {
    /// Returns the time in the `Date` header, if an answer contained one.
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
        *lock(&self.0) = date(context.response());
        Ok(())
    }
}

/// Records the store's time from each answer of the store.
#[derive(Clone, Debug)]
pub struct DateOfStore(pub StoreClock);

impl Intercept for DateOfStore {
    fn name(&self) -> &'static str {
        "DateOfStore"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        if let Some(theirs) = date(context.response()) {
            self.0.observe(theirs);
        }
        Ok(())
    }
}

/// Returns the time in the `Date` header of an answer.
fn date(answer: &HttpResponse) -> Option<Timestamp> {
    let date = answer.headers().get("date")?;
    jiff::fmt::rfc2822::parse(date).ok().map(|z| z.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tag_counts_as_md5_only_if_it_can_be_one() {
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
    fn only_well_formed_codes_and_names_of_a_store_are_shown() {
        for code in ["NoSuchUpload", "XMinioStorageFull", "x-y.z_1", &"A".repeat(64)] {
            assert_eq!(printable_code(code), Some(code));
        }
        for code in ["", "No such", "A\nERROR forged", "<b>", "Ünknown", &"A".repeat(65)] {
            assert_eq!(printable_code(code), None, "{code}");
        }
        assert!(is_name("2~Zm9v/+=") && is_name(&"A".repeat(1024)));
        for name in ["", "a b", "a\nb", "\u{e9}", &"A".repeat(1025)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
