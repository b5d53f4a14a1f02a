//! What a bucket is like: whether the credentials and the region are right, whether the clocks agree, and whether the
//! store obeys headers that are not signed. Nothing is written by a store that behaves.

use std::time::Duration;

use aws_sdk_s3::{
    Client,
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut},
    error::{ProvideErrorMetadata, SdkError},
    presigning::PresigningConfig,
};
use jiff::{SignedDuration, Timestamp};

use super::{
    DateOfAnswer, S3,
    confined::{Shown, try_session},
    lock, unreachable,
};
use crate::{
    api::Reason,
    sign::{Finding, Probed, SignError},
};

/// Difference of clocks below which nothing is said: half of what the shortest sensible keys live.
const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(30);

impl S3 {
    /// Tries the store out with these settings and credentials.
    pub(super) async fn try_out(&self) -> Probed {
        let unusable = |finding| Probed {
            finding,
            skew: None,
            refuses_unsigned: None,
        };
        let session = match self.session().await {
            Ok(session) => session,
            Err(SignError::Credentials { reason, message }) => {
                return unusable(Finding::Broken(reason, message));
            }
            Err(e) => return unusable(Finding::Unreachable(e.to_string())),
        };
        let mut probed = probe(&session.talker, &self.store.bucket, self.probe_key()).await;
        // That it could not be tried, every key says that it matters to.
        if probed.finding == Finding::Usable
            && let Shown::More(why) = try_session(self, &session).await
        {
            probed.finding = Finding::Broken(Reason::KeysNotEnforced, why);
        }
        // What was seen once holds until something else is seen.
        if probed.refuses_unsigned.is_some() {
            *lock(&self.refuses_unsigned) = probed.refuses_unsigned;
        }
        probed
    }
}

/// Tries the bucket with two harmless requests at a key that is not there.
async fn probe(client: &Client, bucket: &str, key: &str) -> Probed {
    let (mut finding, skew) = read(client, bucket, key).await;
    let mut refused = None;
    if finding == Finding::Usable {
        match refuses_unsigned(client, bucket, key).await {
            Ok(seen) => refused = seen,
            Err(why) => finding = Finding::Unreachable(why),
        }
    }
    Probed {
        finding,
        skew,
        refuses_unsigned: refused,
    }
}

/// Reads what is not there: the refusal says what is wrong, if something is.
async fn read(client: &Client, bucket: &str, key: &str) -> (Finding, Option<SignedDuration>) {
    let date = DateOfAnswer::default();
    let answer = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .range("bytes=0-0")
        .customize()
        .interceptor(date.clone())
        .send()
        .await;
    let skew = date
        .seen()
        .map(|theirs| theirs.duration_since(Timestamp::now()))
        .filter(|skew| skew.abs() >= TOLERATED_SKEW);
    let finding = match &answer {
        Ok(_) => Finding::Usable,
        Err(e) => finding(e, bucket),
    };
    (finding, skew)
}

/// What an error code means (Amazon S3 API Reference, "Error responses").
fn finding<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>, bucket: &str) -> Finding {
    let status = error.raw_response().map(|r| r.status().as_u16());
    let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
    let broken = |reason, message: String| Finding::Broken(reason, message);
    match (status, code) {
        (_, "NoSuchBucket") => broken(
            Reason::BucketNotFound,
            format!("the store has no bucket {bucket}; create it, or correct spec.s3.bucket"),
        ),
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId") => broken(
            Reason::CredentialsRefused,
            format!("the store does not take the credentials ({code}); put the right ones into the Secret of spec.s3.credentials"),
        ),
        (_, "ExpiredToken" | "ExpiredTokenException") => broken(
            Reason::CredentialsExpired,
            "the store says that the credentials have expired; renew them".into(),
        ),
        (_, "RequestTimeTooSkewed") => broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's differ by more than it tolerates; set the clocks right (NTP)".into(),
        ),
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
        | (Some(301 | 307), _) => broken(
            Reason::RegionMismatch,
            "the bucket is not in spec.s3.region, or not at spec.s3.endpoint; set the bucket's own region and its endpoint".into(),
        ),
        // Not there, or not to be seen: both say that bucket, region and credentials are right.
        (Some(403 | 404 | 416), _) => Finding::Usable,
        _ => Finding::Unreachable(unreachable(error)),
    }
}

/// Whether the store refuses headers that are not signed; `None` if it cannot be told; an error if there was no answer.
async fn refuses_unsigned(client: &Client, bucket: &str, key: &str) -> Result<Option<bool>, String> {
    match try_copying(client, bucket, key).await? {
        Copied::Seen(seen) => Ok(seen),
        // Somebody has put an object there. Whoever may do that must not be able to keep this from being found out.
        Copied::Occupied => {
            let below = format!("{key}/{}", Timestamp::now().as_nanosecond());
            match try_copying(client, bucket, &below).await? {
                Copied::Seen(seen) => Ok(seen),
                Copied::Occupied => Ok(None),
            }
        }
    }
}

/// What came of a request to copy.
enum Copied {
    /// Whether the header was refused, if that shows.
    Seen(Option<bool>),
    /// There is an object already, and the store looked for that first.
    Occupied,
}

/// Sends a presigned PUT with a header that was not signed: it asks to copy an object that does not exist. A store
/// that obeys the header looks for that object and does not find it; one that refuses the header says so.
async fn try_copying(client: &Client, bucket: &str, key: &str) -> Result<Copied, String> {
    let absent = format!("{bucket}/{key}-absent-{}", Timestamp::now().as_nanosecond());
    let put = || client.put_object().bucket(bucket).key(key);
    let Ok(presigning) = PresigningConfig::expires_in(Duration::from_secs(60)) else {
        return Ok(Copied::Seen(None));
    };
    let Ok(presigned) = put().if_none_match("*").presigned(presigning).await else {
        return Ok(Copied::Seen(None));
    };
    let sneaky = Sneaky {
        uri: presigned.uri().to_owned(),
        source: absent.clone(),
    };
    let answer = put().customize().interceptor(sneaky).send().await;
    let Err(error) = answer else {
        // It took the header for nothing and wrote an empty object, as the URL permits.
        let _ = client.delete_object().bucket(bucket).key(key).send().await;
        return Ok(Copied::Seen(Some(true)));
    };
    let Some(status) = error.raw_response().map(|r| r.status().as_u16()) else {
        return Err(unreachable(&error));
    };
    let said = error
        .as_service_error()
        .map(|e| format!("{} {}", e.code().unwrap_or_default(), e.message().unwrap_or_default()))
        .unwrap_or_default();
    Ok(Copied::Seen(match status {
        412 => return Ok(Copied::Occupied),
        403 if said.contains("not signed") => Some(true),
        403 => {
            // Refused for the header, or since these credentials may not do that at all? The same with everything signed.
            let copy = client
                .copy_object()
                .bucket(bucket)
                .key(key)
                .copy_source(&absent)
                .send()
                .await;
            match copy {
                Ok(_) => None,
                Err(e) => match e.raw_response().map(|r| r.status().as_u16()) {
                    Some(status) => (status == 404).then_some(true),
                    None => return Err(unreachable(&e)),
                },
            }
        }
        404 => Some(false),
        // It knows the header and finds something else wrong with it.
        400 if said.contains("not signed") => Some(true),
        _ => None,
    }))
}

/// Replaces a request by a presigned one with an unsigned `x-amz-copy-source`.
#[derive(Debug)]
struct Sneaky {
    uri: String,
    source: String,
}

impl Intercept for Sneaky {
    fn name(&self) -> &'static str {
        "Sneaky"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let request = context.request_mut();
        request.set_uri(self.uri.clone())?;
        let headers = request.headers_mut();
        let signed_otherwise: Vec<_> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| name == "authorization" || name.starts_with("x-amz-") || name.starts_with("amz-sdk"))
            .collect();
        for name in signed_otherwise {
            headers.remove(name);
        }
        headers.insert("if-none-match", "*");
        headers.insert("x-amz-copy-source", self.source.clone());
        Ok(())
    }
}
