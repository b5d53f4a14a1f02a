//! Probes whether a store enforces session policies. Some stores have an STS but ignore session policies.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{Client, error::ProvideErrorMetadata, primitives::ByteStream};
use jiff::{SignedDuration, Timestamp};

use super::{amazon, assume_role::assume, credentials_cache::Session, responses::unreachable, store::S3};
use crate::{
    api::{Multipart, Operation, OperationSpec, Reason, UploadConstraints, UploadMode},
    core::{Lifetime, ObjectKey, SignError, SigningRequest, second},
    provider::probe::ONLY_READ,
};

/// The body of the probe's upload, and an MD5 that does not match this body. A store that checks the MD5 refuses this
/// upload.
const PROBE_UPLOAD: (&[u8], &str) = (b"valet", "AAAAAAAAAAAAAAAAAAAAAA==");

/// The result of the probe says whether the store enforces session policies.
pub enum Shown {
    /// The store enforces the session policy, or the store uses no sessions.
    Confined,
    /// The session allows more than its session policy. The value is the message for the owner of the store.
    More(String),
    /// The probe gave no result. The error contains the reason.
    NotProbedYet(SignError),
}

/// Probes with a session whose policy allows writes to only one object key. The probe tries to write an object with
/// this allowed key and an object with a different key.
///
/// Both uploads have a wrong MD5. A store checks the MD5 only after it has authorized the request, so a correct store
/// writes nothing.
///
/// The refusal of the different key counts only if the store authorizes the upload with the allowed key. If the store
/// refuses both uploads, a wrong clock or an outage can be the reason. After a success, Valet does not repeat the
/// probe.
pub async fn probe_session(s3: &S3, session: &Session) -> Shown {
    if s3.role().is_none() || s3.sessions_are_confined.load(Ordering::Relaxed) {
        return Shown::Confined;
    }
    if !s3.allows_writes() {
        return Shown::NotProbedYet(unclear(ONLY_READ));
    }
    let probe = s3.probe_key();
    let now = second(Timestamp::now());
    let own_key = format!("{probe}/session");
    let Ok(key) = ObjectKey::parse(&own_key, usize::MAX) else {
        return Shown::NotProbedYet(unclear("spec.s3.probeKey is not a valid object key"));
    };
    let request = SigningRequest {
        key,
        operation_spec: OperationSpec::Upload {
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
    let own = match assume(s3, session, &request).await {
        Ok(Some(own)) => own,
        Ok(None) => return Shown::Confined,
        Err(e) => return Shown::NotProbedYet(e),
    };
    let client = s3.client(&own, s3.store.endpoint.as_ref());
    let (own, other) = match (write(s3, &client, &own_key).await, write(s3, &client, probe).await) {
        (Ok(own), Ok(other)) => (own, other),
        (Err(e), _) | (_, Err(e)) => return Shown::NotProbedYet(e),
    };
    match (own, other) {
        (_, Written::Allowed) => Shown::More("spec.s3.credentials.assumeRole: the store does not enforce session policies, so credentials are not limited to one grant; use a store that enforces session policies, or remove assumeRole".to_owned()),
        (Written::Allowed, Written::Denied) => {
            s3.sessions_are_confined.store(true, Ordering::Relaxed);
            Shown::Confined
        }
        (Written::Denied, _) => Shown::NotProbedYet(unclear(&format!(
            "the role in spec.s3.credentials.assumeRole is not allowed to write object key {own_key}; allow the role to write this object key"
        ))),
        (Written::Unclear(status), _) | (_, Written::Unclear(status)) => Shown::NotProbedYet(unclear(&format!(
            "the store answered status {status} to a probe upload with temporary credentials"
        ))),
    }
}

/// The store's answer to an upload that a session signed.
enum Written {
    Allowed,
    Denied,
    Unclear(u16),
}

/// Tries to upload an object with a wrong MD5.
async fn write(s3: &S3, client: &Client, key: &str) -> Result<Written, SignError> {
    let answer = client
        .put_object()
        .bucket(&s3.store.bucket)
        .key(key)
        .content_md5(PROBE_UPLOAD.1)
        .body(ByteStream::from_static(PROBE_UPLOAD.0))
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
                "it is not known whether the store enforces session policies, because the store does not answer: {why}",
                why = unreachable(&e)
            ),
        }),
    }
}

fn unclear(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::ConstraintsNotEnforced,
        message: format!("it is not known whether the store enforces session policies: {why}"),
    }
}

/// Checks that the store enforces session policies. Valet runs this check before it signs an upload or temporary
/// credentials with a session. The check is necessary here because the probe of the store possibly had no result.
///
/// # Errors
/// Returns [`SignError::Credentials`] if the store does not enforce session policies, or if the probe has no result.
pub async fn require_enforced(s3: &S3, session: &Session, operation_spec: &OperationSpec) -> Result<(), SignError> {
    let Some(role) = s3.role() else { return Ok(()) };
    let rests_on_it = operation_spec.is_for_credentials() || operation_spec.operation() == Operation::Upload;
    // Amazon documents that it enforces session policies (IAM User Guide, "Session policies"). Therefore Amazon needs
    // no probe.
    let is_documented = amazon::is_store(&s3.store) && role.endpoint.as_deref().is_none_or(amazon::is_sts);
    if !rests_on_it || is_documented {
        return Ok(());
    }
    match probe_session(s3, session).await {
        Shown::Confined => Ok(()),
        Shown::More(message) => Err(SignError::Credentials {
            reason: Reason::ConstraintsNotEnforced,
            message,
        }),
        Shown::NotProbedYet(e) => Err(e),
    }
}
