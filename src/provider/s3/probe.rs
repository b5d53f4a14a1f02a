//! Probes an S3 bucket. The probe checks the credentials, the region and the clock skew. It also checks unsigned
//! headers and write-once uploads. Each of these checks sends its own requests.

mod headers;
mod write_once;

use std::sync::Arc;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures::{FutureExt, future::BoxFuture};

use super::{
    assume_role::{self, NO_STS},
    credentials_cache::Session,
    responses::unreachable,
    session_policy_check::{Shown, probe_session},
    store::S3,
};
use crate::{
    api::Reason,
    core::{SignError, is_skewed, skewed},
    provider::{
        probe::UnsignedHeaders,
        probe_steps::{self, ProbeRead, ProbeSteps},
        probed::{Finding, Probed},
    },
};

/// Probes the store with its settings and its current credentials.
pub async fn probe(s3: &S3) -> Probed {
    let session = match s3.session().await {
        Ok(session) => session,
        Err(SignError::Credentials { reason, message }) => return Probed::of(Finding::Broken(reason, message)),
        Err(e) => return Probed::of(Finding::Unreachable(e.to_string())),
    };
    probe_steps::probe(&Steps { s3, session }, &s3.findings).await
}

struct Steps<'a> {
    s3: &'a S3,
    session: Arc<Session>,
}

impl ProbeSteps for Steps<'_> {
    fn read(&self) -> BoxFuture<'_, ProbeRead> {
        async {
            let clock = &self.s3.findings.clock;
            let mut read = self.read_once().await;
            if matches!(read.finding, Finding::Broken(Reason::ClockSkewed, _)) && !is_skewed(clock.skew()) {
                // The AWS SDK corrects the time in a signature by the clock skew that it measured in the last answer.
                // If somebody has changed the operator's clock since that answer, the first request has a wrong time.
                // The second request then has the correct time.
                read = self.read_once().await;
            }
            read.skew = clock.skew().filter(|skew| is_skewed(Some(*skew)));
            if let (Some(skew), Finding::Broken(Reason::CredentialsExpired, _)) = (read.skew, &read.finding) {
                read.finding = Finding::Broken(Reason::ClockSkewed, skewed(skew));
            }
            if read.finding == Finding::Usable && self.s3.role().is_some() && !assume_role::is_allowed(self.s3) {
                read.finding = Finding::Broken(Reason::EndpointNotAllowed, NO_STS.to_owned());
            }
            read
        }
        .boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<(), Finding>> {
        async {
            // If Valet could not test whether the store enforces session policies, the probe does not report an error.
            // Valet reports the problem later, when it must sign a credential that depends on a session policy.
            match probe_session(self.s3, &self.session).await {
                Shown::More(why) => Err(Finding::Broken(Reason::ConstraintsNotEnforced, why)),
                Shown::Confined | Shown::NotProbedYet(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn unsigned_headers(&self, is_absent: bool) -> BoxFuture<'_, Result<UnsignedHeaders, Finding>> {
        async move {
            headers::probe(self.s3, &self.session.operator, is_absent)
                .await
                .map_err(Finding::Unreachable)
        }
        .boxed()
    }

    fn write_once(&self) -> BoxFuture<'_, Result<(), Finding>> {
        async {
            write_once::probe(self.s3, &self.session.operator)
                .await
                .map_err(Finding::Unreachable)
        }
        .boxed()
    }

    fn notices(&self) -> Vec<String> {
        let notice = "upload grants must set spec.constraints.checksumSHA256 or checksumMD5, because the bucket has Object Lock with a default retention and accepts only uploads with a checksum";
        let requires = self.s3.findings.requires_checksums();
        requires.then(|| notice.to_owned()).into_iter().collect()
    }
}

impl Steps<'_> {
    /// Sends a read request for an object that usually does not exist. The error in the answer shows whether the
    /// bucket, the region and the credentials are correct.
    async fn read_once(&self) -> ProbeRead {
        let bucket = &self.s3.store.bucket;
        let request = self
            .session
            .operator
            .get_object()
            .bucket(bucket)
            .key(self.s3.probe_key());
        match &request.range("bytes=0-0").send().await {
            Ok(_) => ProbeRead::of(Finding::Usable),
            Err(e) => ProbeRead {
                is_absent: e.raw_response().map(|r| r.status().as_u16()) == Some(404),
                ..ProbeRead::of(finding(e, bucket))
            },
        }
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
            "the bucket is not in the region that spec.s3.region names, or not at the endpoint that spec.s3.endpoint names; correct these fields".into(),
        ),
        // Either the object does not exist, or the credentials are not allowed to read it. In both cases the probe
        // found no problem with the bucket, the region or the credentials.
        (Some(403 | 404 | 416), _) => Finding::Usable,
        _ => Finding::Unreachable(unreachable(error)),
    }
}
