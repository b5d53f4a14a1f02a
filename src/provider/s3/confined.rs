//! Whether sessions are held to their policies: not every store that has an STS heeds them.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{Client, error::ProvideErrorMetadata, primitives::ByteStream};
use jiff::{SignedDuration, Timestamp};

use super::{S3, Session, answers::is_amazons_sts, below::is_amazons, unreachable};
use crate::{
    api::{Ask, Multipart, Operation, Reason, UploadConstraints, UploadMode},
    core::{Lifetime, ObjectKey, SignError, SigningRequest, second},
};

/// What a session is tried with, and the MD5 of something else.
const TRIAL: (&[u8], &str) = (b"valet", "AAAAAAAAAAAAAAAAAAAAAA==");

/// What the trial of a session has shown.
pub enum Shown {
    /// It was held to its policy, or there are no sessions.
    Confined,
    /// It can do more than its policy says.
    More(String),
    /// Nothing, and why.
    Untried(SignError),
}

/// Takes a session that may write one key to another one, the probe's own. The requests are wrong in another way, too (their MD5
/// is another body's), which a store finds out after it has asked whether they are allowed: nothing is written by them. That the
/// other key is refused counts only if the session's own is not: with a wrong clock, or in an outage, both are. Once it was
/// seen, it is not tried again.
pub async fn try_session(s3: &S3, session: &Session) -> Shown {
    if s3.role().is_none() || s3.confined.load(Ordering::Relaxed) {
        return Shown::Confined;
    }
    let probe = s3.probe_key();
    let now = second(Timestamp::now());
    let own_key = format!("{probe}/session");
    let Ok(key) = ObjectKey::parse(&own_key, usize::MAX) else {
        return Shown::Untried(unclear("the probe's key is no key"));
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
        Ok(None) => return Shown::Confined,
        Err(e) => return Shown::Untried(e),
    };
    let client = s3.client(&own, s3.store.endpoint.as_ref());
    let (own, other) = match (write(s3, &client, &own_key).await, write(s3, &client, probe).await) {
        (Ok(own), Ok(other)) => (own, other),
        (Err(e), _) | (_, Err(e)) => return Shown::Untried(e),
    };
    match (own, other) {
        (_, Written::Allowed) => Shown::More("the sessions that STS makes for spec.s3.credentials.assumeRole can do more than the policy says that Valet gives them, so they confine no key: use an STS that heeds session policies, or leave assumeRole out".to_owned()),
        (Written::Allowed, Written::Denied) => {
            s3.confined.store(true, Ordering::Relaxed);
            Shown::Confined
        }
        (Written::Denied, _) => Shown::Untried(unclear(&format!(
            "a session may not write its own key {own_key} either; let the role write there"
        ))),
        (Written::Unclear(status), _) | (_, Written::Unclear(status)) => Shown::Untried(unclear(&format!(
            "the store answered {status} to an upload with a session"
        ))),
    }
}

/// What came of an upload by a session.
enum Written {
    Allowed,
    Denied,
    Unclear(u16),
}

/// Asks to write a key, with the MD5 of another body.
async fn write(s3: &S3, client: &Client, key: &str) -> Result<Written, SignError> {
    let answer = client
        .put_object()
        .bucket(&s3.store.bucket)
        .key(key)
        .content_md5(TRIAL.1)
        .body(ByteStream::from_static(TRIAL.0))
        .send()
        .await;
    let Err(e) = answer else {
        return Ok(Written::Allowed);
    };
    match (e.raw_response().map(|r| r.status().as_u16()), e.code()) {
        (Some(401 | 403), _) => Ok(Written::Denied),
        (Some(400), Some("BadDigest" | "InvalidDigest")) => Ok(Written::Allowed),
        (Some(status), _) if status < 500 || status == 501 => Ok(Written::Unclear(status)),
        _ => Err(SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message: format!(
                "it is not known yet whether the store holds sessions to their policies, since it does not answer: {}",
                unreachable(&e)
            ),
        }),
    }
}

fn unclear(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::KeysNotEnforced,
        message: format!("it is not known whether the store holds sessions to their policies: {why}"),
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
    if !rests_on_it || is_documented {
        return Ok(());
    }
    match try_session(s3, session).await {
        Shown::Confined => Ok(()),
        Shown::More(message) => Err(SignError::Credentials {
            reason: Reason::KeysNotEnforced,
            message,
        }),
        Shown::Untried(e) => Err(e),
    }
}
