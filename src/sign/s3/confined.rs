//! Whether sessions are held to their policies: not every store that has an STS heeds them.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{error::ProvideErrorMetadata, primitives::ByteStream};
use jiff::{SignedDuration, Timestamp};

use super::{S3, Session};
use crate::{
    api::{Ask, Multipart, UploadConstraints, UploadMode},
    grant::{Lifetime, ObjectKey, SigningRequest, second},
};

/// What a session is tried with, and the MD5 of something else.
const TRIAL: (&[u8], &str) = (b"valet", "AAAAAAAAAAAAAAAAAAAAAA==");

/// Why no session of the store's confines a key, if that shows: one that may write another key is taken to the probe's own.
/// The request is wrong in another way, too (its MD5 is another body's), which a store finds out after it has asked
/// whether it is allowed: nothing is written by it. Once it was refused, it is not tried again.
pub async fn unconfined(s3: &S3, session: &Session) -> Option<String> {
    if s3.role().is_none() || s3.confined.load(Ordering::Relaxed) {
        return None;
    }
    let probe = s3.probe_key();
    let now = second(Timestamp::now());
    let request = SigningRequest {
        key: ObjectKey::parse(&format!("{probe}/session"), usize::MAX).ok()?,
        ask: Ask::Upload {
            mode: UploadMode::Put,
            multipart: Multipart::default(),
            constraints: UploadConstraints::default(),
        },
        lifetime: Lifetime {
            issued_at: now,
            expires_at: now + SignedDuration::from_mins(1),
        },
        holder: "valet.probe".into(),
        upload: None,
    };
    // If there are none, every key says so.
    let own = s3.assume(session, &request).await.ok()??;
    let answer = s3
        .client(&own, s3.store.endpoint.as_ref())
        .put_object()
        .bucket(&s3.store.bucket)
        .key(probe)
        .content_md5(TRIAL.1)
        .body(ByteStream::from_static(TRIAL.0))
        .send()
        .await;
    let is_allowed = match answer {
        Ok(_) => true,
        Err(e) => match (e.raw_response().map(|r| r.status().as_u16()), e.code()) {
            (Some(401 | 403), _) => {
                s3.confined.store(true, Ordering::Relaxed);
                false
            }
            (Some(400), Some("BadDigest" | "InvalidDigest")) => true,
            _ => false,
        },
    };
    is_allowed.then(|| {
        "the sessions that STS makes for spec.s3.credentials.assumeRole can do more than the policy says that Valet gives them, so they confine no key: use an STS that heeds session policies, or leave assumeRole out".to_owned()
    })
}
