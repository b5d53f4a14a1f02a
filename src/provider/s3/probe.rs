//! What a bucket is like: whether the credentials and the region are right, whether the clocks agree, what the store does with
//! headers that are not signed, and whether it knows write-once uploads. Each is tried by itself.

mod headers;
mod write_once;

use super::{
    NO_STS, S3,
    confined::{Shown, try_session},
    lock, unreachable,
};
use crate::{
    api::Reason,
    core::{MOST_SKEW, SignError, is_skewed, skewed},
    provider::probe::{UnsignedHeaders, remark},
    provider::{Finding, Probed},
};
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};

impl S3 {
    /// Tries the store out with these settings and credentials.
    pub(super) async fn try_out(&self) -> Probed {
        let session = match self.session().await {
            Ok(session) => session,
            Err(SignError::Credentials { reason, message }) => {
                return Probed::of(Finding::Broken(reason, message));
            }
            Err(e) => return Probed::of(Finding::Unreachable(e.to_string())),
        };
        let (client, bucket) = (&session.talker, &self.store.bucket);
        let mut read = try_reading(client, bucket, self.probe_key()).await;
        if matches!(read.finding, Finding::Broken(Reason::ClockSkewed, _)) && !is_skewed(self.clock.skew()) {
            // The client signed by the difference that it had seen before the operator's clock was set right; now it knows.
            read = try_reading(client, bucket, self.probe_key()).await;
        }
        let mut probed = Probed::of(read.finding);
        probed.skew = self.clock.skew().filter(|skew| is_skewed(Some(*skew)));
        if let (Some(skew), Finding::Broken(Reason::CredentialsExpired, _)) = (probed.skew, &probed.finding) {
            probed.finding = Finding::Broken(Reason::ClockSkewed, skewed(skew));
        }
        if probed.finding != Finding::Usable {
            return probed;
        }
        if self.role().is_some() && !self.may_assume() {
            probed.finding = Finding::Broken(Reason::EndpointNotAllowed, NO_STS.to_owned());
            return probed;
        }
        if let Some(skew) = probed.skew {
            // A signature's times mean something else to the store then, so nothing that it refuses tells why.
            probed.untold = Some(skewed(skew));
            if skew.abs() >= MOST_SKEW {
                probed.finding = Finding::Broken(Reason::ClockSkewed, skewed(skew));
            }
            return probed;
        }
        // That it could not be tried, every key says that it matters to.
        if let Shown::More(why) = try_session(self, &session).await {
            probed.finding = Finding::Broken(Reason::KeysNotEnforced, why);
            return probed;
        }
        match self.try_headers(client, read.is_absent).await {
            Ok(UnsignedHeaders::Refused) => probed.refuses_unsigned = Some(true),
            Ok(UnsignedHeaders::Obeyed) => probed.refuses_unsigned = Some(false),
            Ok(UnsignedHeaders::Unknown(why)) => probed.untold = Some(why),
            Err(why) => {
                probed.finding = Finding::Unreachable(why);
                return probed;
            }
        }
        if let Err(why) = self.try_write_once(client).await {
            probed.finding = Finding::Unreachable(why);
            return probed;
        }
        // What was seen once holds until something else is seen.
        if probed.refuses_unsigned.is_some() {
            *lock(&self.refuses_unsigned) = probed.refuses_unsigned;
        }
        self.is_tried.store(true, std::sync::atomic::Ordering::Release);
        probed.remarks = self.remarks();
        probed
    }

    /// What a person must know of the bucket who makes grants for it.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<_> = remark(&lock(&self.write_once)).into_iter().collect();
        if self.wants_checksums() {
            remarks.push(
                "its bucket has Object Lock with a default retention, so it takes an upload only with a checksum: upload grants need spec.constraints.checksumSHA256 or checksumMD5"
                    .to_owned(),
            );
        }
        remarks
    }
}

/// What reading shows.
struct Read {
    finding: Finding,
    /// Whether the store says that there is no object at the probe's key.
    is_absent: bool,
}

/// Reads what is not there: the refusal says what is wrong, if something is.
async fn try_reading(client: &Client, bucket: &str, key: &str) -> Read {
    let answer = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .range("bytes=0-0")
        .send()
        .await;
    match &answer {
        Ok(_) => Read {
            finding: Finding::Usable,
            is_absent: false,
        },
        Err(e) => Read {
            finding: finding(e, bucket),
            is_absent: e.raw_response().map(|r| r.status().as_u16()) == Some(404),
        },
    }
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
