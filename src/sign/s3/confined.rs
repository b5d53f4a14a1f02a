//! Whether sessions are held to their policies: not every store that has an STS heeds them.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{error::ProvideErrorMetadata, primitives::ByteStream};
use jiff::{SignedDuration, Timestamp};

use super::{S3, Session, answers::is_amazons_sts, below::is_amazons, unreachable};
use crate::{
    api::{Ask, Multipart, Operation, Reason, UploadConstraints, UploadMode},
    grant::{Lifetime, ObjectKey, SigningRequest, second},
    sign::SignError,
};

/// What a session is tried with, and the MD5 of something else.
const TRIAL: (&[u8], &str) = (b"valet", "AAAAAAAAAAAAAAAAAAAAAA==");

/// What the trial of a session has shown.
pub enum Shown {
    /// Nothing against it: it was held to its policy, or the answer tells neither, as some stores' never do.
    Nothing,
    /// It can do more than its policy says.
    More(String),
    /// Nothing, since there was no answer, and why.
    Untried(SignError),
}

/// Takes a session that may write another key to the probe's own. The request is wrong in another way, too (its MD5 is another
/// body's), which a store finds out after it has asked whether it is allowed: nothing is written by it. Once it was refused,
/// it is not tried again.
pub async fn try_session(s3: &S3, session: &Session) -> Shown {
    if s3.role().is_none() || s3.confined.load(Ordering::Relaxed) {
        return Shown::Nothing;
    }
    let probe = s3.probe_key();
    let now = second(Timestamp::now());
    let Ok(key) = ObjectKey::parse(&format!("{probe}/session"), usize::MAX) else {
        return Shown::Nothing;
    };
    let request = SigningRequest {
        key,
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
    let own = match s3.assume(session, &request).await {
        Ok(Some(own)) => own,
        Ok(None) => return Shown::Nothing,
        Err(e) => return Shown::Untried(e),
    };
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
            (Some(status), _) if status < 500 || status == 501 => false,
            _ => {
                return Shown::Untried(SignError::Credentials {
                    reason: Reason::StoreUnreachable,
                    message: format!(
                        "it is not known yet whether the store holds sessions to their policies, since it does not answer: {}",
                        unreachable(&e)
                    ),
                });
            }
        },
    };
    if is_allowed {
        Shown::More("the sessions that STS makes for spec.s3.credentials.assumeRole can do more than the policy says that Valet gives them, so they confine no key: use an STS that heeds session policies, or leave assumeRole out".to_owned())
    } else {
        s3.sessions_tried.store(true, Ordering::Relaxed);
        Shown::Nothing
    }
}

/// Makes sure that a session was tried before one signs what is only as narrow as the session is: an upload, or what is lent. A
/// trial with the store's probe may have had no answer.
///
/// # Errors
/// [`SignError::Credentials`], if sessions can do more than they should, or it cannot be tried.
pub async fn vouch(s3: &S3, session: &Session, ask: &Ask) -> Result<(), SignError> {
    let Some(role) = s3.role() else { return Ok(()) };
    let rests_on_it = ask.is_for_credentials() || ask.operation() == Operation::Upload;
    // Of Amazon it is documented (IAM User Guide, "Session policies").
    let is_documented = is_amazons(&s3.store) && role.endpoint.as_deref().is_none_or(is_amazons_sts);
    if !rests_on_it || is_documented || s3.sessions_tried.load(Ordering::Relaxed) {
        return Ok(());
    }
    match try_session(s3, session).await {
        Shown::Nothing => Ok(()),
        Shown::More(message) => Err(SignError::Credentials {
            reason: Reason::KeysNotEnforced,
            message,
        }),
        Shown::Untried(e) => Err(e),
    }
}
