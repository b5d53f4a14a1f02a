//! Probes an S3 bucket. The probe checks the credentials, the region and the clock skew. It also checks unsigned
//! headers and write-once uploads. Each of these checks sends its own requests.

mod headers;
mod write_once;

use super::{
    NO_STS, S3, lock,
    session_policy_check::{Shown, try_session},
    unreachable,
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
    /// Probes the store with its settings and its current credentials.
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
            // The AWS SDK corrects the times in its signatures by the clock skew that it saw last. If somebody
            // changed the operator's clock since then, only the second request has the correct time.
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
            // If the clock skew is large, the store can refuse a signature because of the times in it. Such a refusal
            // does not show how the store handles unsigned headers.
            probed.untold = Some(skewed(skew));
            if skew.abs() >= MOST_SKEW {
                probed.finding = Finding::Broken(Reason::ClockSkewed, skewed(skew));
            }
            return probed;
        }
        // If Valet could not test the session policy, the probe does not report an error. Valet reports the problem
        // when it must sign a credential that depends on the session policy.
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
        // If this probe has no result, Valet keeps the result of the last probe that had one.
        if probed.refuses_unsigned.is_some() {
            *lock(&self.refuses_unsigned) = probed.refuses_unsigned;
        }
        self.is_tried.store(true, std::sync::atomic::Ordering::Release);
        probed.remarks = self.remarks();
        probed
    }

    /// Returns what users need to know before they create grants for this store.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<_> = remark(&lock(&self.write_once)).into_iter().collect();
        if self.wants_checksums() {
            remarks.push(
                "upload grants must set spec.constraints.checksumSHA256 or checksumMD5, because the bucket has Object Lock with a default retention and accepts only uploads with a checksum"
                    .to_owned(),
            );
        }
        remarks
    }
}

/// The result of the read request that a probe sends.
struct Read {
    finding: Finding,
    /// This is true if the store reports that the requested object does not exist.
    is_absent: bool,
}

/// Sends a read request for an object that usually does not exist. The error in the answer shows whether the bucket,
/// the region and the credentials are correct.
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

/// Converts an error code into the result of the probe (Amazon S3 API Reference, "Error responses").
fn finding<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>, bucket: &str) -> Finding {
    let status = error.raw_response().map(|r| r.status().as_u16());
    let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
    let broken = |reason, message: String| Finding::Broken(reason, message);
    match (status, code) {
        (_, "NoSuchBucket") => broken(
            Reason::BucketNotFound,
            format!("the store has no bucket {bucket}; create this bucket, or correct spec.s3.bucket"),
        ),
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId") => broken(
            Reason::CredentialsRefused,
            format!("the store does not accept the credentials (code {code}); correct the Secret in spec.s3.credentials.secretRef"),
        ),
        (_, "ExpiredToken" | "ExpiredTokenException") => broken(
            Reason::CredentialsExpired,
            "the store rejects the credentials because they have expired; renew the credentials".into(),
        ),
        (_, "RequestTimeTooSkewed") => broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's clock differ by more than the store tolerates; synchronize the clocks (NTP)".into(),
        ),
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
        | (Some(301 | 307), _) => broken(
            Reason::RegionMismatch,
            "the bucket is not in the region of spec.s3.region or not at spec.s3.endpoint; correct these two fields".into(),
        ),
        // Either the object does not exist, or the credentials are not allowed to read it. In both cases the probe
        // found no problem with the bucket, the region or the credentials.
        (Some(403 | 404 | 416), _) => Finding::Usable,
        _ => Finding::Unreachable(unreachable(error)),
    }
}
