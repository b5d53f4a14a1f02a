//! What a store's answers say, without anything that a request or an answer carried.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef},
    error::SdkError,
};
use jiff::Timestamp;

use super::{LOOK_TIMEOUT, lock};
use crate::{
    grant::ObjectFact,
    sign::{Inward, SignError},
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
