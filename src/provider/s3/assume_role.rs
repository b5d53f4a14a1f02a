//! Temporary credentials for one object key or prefix. Valet assumes a role with a session policy. The session policy
//! allows only what the grant allows (AWS STS API Reference, "AssumeRole"; IAM User Guide, "Session policies").

use aws_credential_types::Credentials;
use aws_sdk_sts::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;

use super::{
    amazon,
    credentials_cache::Session,
    responses::{printable_code, unreachable},
    session_policy,
    store::S3,
};
use crate::{
    api::{Reason, store::s3::AssumeRole},
    core::{SignError, SigningRequest},
    net::EgressPolicy,
};

/// An STS session lasts at least this number of seconds.
const SHORTEST: i64 = 900;
/// A session stays valid for 60 seconds after the credential that it signed has expired. Valet needs this margin
/// because the clocks can differ, and because an upload can begin in the last second before the expiry.
const MARGIN: i64 = 60;

/// The maximum length of a value that Valet accepts from STS, in bytes. Session tokens are the longest values, and
/// they have only a few kilobytes.
const LONGEST_CREDENTIAL: usize = 16 * 1024;

/// If Valet assumes the role with the credentials of another session, the new session lasts at most this number of
/// seconds (IAM User Guide, "Roles terms and concepts": role chaining).
const LONGEST_CHAINED: i64 = 3600;

/// The message for a store with `assumeRole` if the operator is not allowed to send requests to the STS endpoint. This
/// is the case if a tenant chose this endpoint and the platform team has not allowed such requests.
pub const NO_STS: &str = "spec.s3.credentials.assumeRole needs requests to STS, but the operator sends only read requests to the endpoint of an ObjectStore; remove assumeRole, or ask the platform team to set --tenant-store-requests=All";

/// Returns the maximum lifetime of a session for one grant, in seconds.
pub fn longest(role: &AssumeRole, assuming: &Credentials) -> i64 {
    match assuming.session_token() {
        Some(_) => role.duration_seconds.min(LONGEST_CHAINED),
        None => role.duration_seconds,
    }
}

/// Returns true if the operator is allowed to send requests to STS. If a tenant chose the STS endpoint, the
/// platform team must have allowed these requests.
pub fn is_allowed(s3: &S3) -> bool {
    let endpoint = s3.role().and_then(|role| role.endpoint.as_ref());
    let endpoint = endpoint.or(s3.store.endpoint.as_ref());
    endpoint.is_none_or(|e| amazon::is_sts(e)) || s3.egress.as_ref().is_none_or(EgressPolicy::allows_writes)
}

/// Assumes the store's role with a session policy for one object key or prefix. Returns `None` if the store has no
/// role.
///
/// # Errors
/// Returns [`SignError::Impossible`] if Valet cannot write a session policy for only this object key. Returns
/// [`SignError::Credentials`] if STS refuses the request, or if the operator is not allowed to send it.
pub async fn assume(s3: &S3, session: &Session, request: &SigningRequest) -> Result<Option<Credentials>, SignError> {
    let (Some(sts), Some(role)) = (&session.sts, s3.role()) else {
        return Ok(None);
    };
    if !is_allowed(s3) {
        return Err(SignError::Credentials {
            reason: Reason::EndpointNotAllowed,
            message: NO_STS.to_owned(),
        });
    }
    let longest = longest(role, &session.credentials);
    credentials(sts, role, longest, &s3.store.bucket, request)
        .await
        .map(Some)
}

async fn credentials(
    client: &Client,
    role: &AssumeRole,
    longest: i64,
    bucket: &str,
    request: &SigningRequest,
) -> Result<Credentials, SignError> {
    let policy = session_policy::of(role, bucket, request)?;
    let left = request.lifetime.expires_at.as_second() - Timestamp::now().as_second() + MARGIN;
    let seconds = left.max(SHORTEST).min(longest);
    let answer = client
        .assume_role()
        // MinIO ignores the role ARN, but the STS protocol requires a value.
        .role_arn(role.role_arn.as_deref().unwrap_or("arn:minio:iam:::role/valet"))
        .role_session_name(session_name(&request.holder))
        .set_external_id(role.external_id.clone())
        .policy(policy)
        .duration_seconds(i32::try_from(seconds).unwrap_or(i32::MAX))
        .send()
        .await
        .map_err(|e| denied(&e))?;
    let given = answer.credentials.ok_or_else(|| SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: "the answer of STS contains no credentials; check that spec.s3.credentials.assumeRole.endpoint is an STS endpoint"
            .into(),
    })?;
    let parts = [&given.access_key_id, &given.secret_access_key, &given.session_token];
    if !parts.into_iter().all(|part| is_credential(part)) {
        return Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: "the answer of STS contains invalid credentials (a value is empty, too long, or contains spaces or line breaks); check that spec.s3.credentials.assumeRole.endpoint is an STS endpoint".into(),
        });
    }
    let end = Timestamp::from_second(given.expiration.secs()).unwrap_or(Timestamp::UNIX_EPOCH);
    if end < request.lifetime.expires_at {
        return Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!(
                "STS created a session that expires at {end}, before the requested expiry; reduce spec.s3.credentials.assumeRole.durationSeconds to a duration that the role allows"
            ),
        });
    }
    Ok(Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        Some(given.session_token),
        Some(end.into()),
        "AssumeRole",
    ))
}

/// Returns true if the value contains no spaces and no line breaks. Valid access keys and tokens contain neither. S3
/// clients read a credentials file line by line.
///
/// A token with a line break could therefore add the setting `credential_process` to this file. The workload's S3
/// client would then run the program that this setting names.
fn is_credential(text: &str) -> bool {
    (1..=LONGEST_CREDENTIAL).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns the session name, which CloudTrail shows. A session name has 2 to 64 characters: letters, digits and
/// `_=,.@-`.
fn session_name(holder: &str) -> String {
    let mut name: String = format!("valet-{holder}")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "_=,.@-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    name.truncate(64);
    name
}

/// Converts an error of STS. The function discards the text of the answer, because the text can name accounts and
/// roles. Tenants do not need to know these names.
fn denied<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> SignError {
    let code = error.as_service_error().and_then(|e| e.code()).and_then(printable_code);
    let (reason, message) = match code {
        Some("ExpiredToken" | "ExpiredTokenException") => (
            Reason::CredentialsExpired,
            "the credentials that assume the role have expired; renew these credentials".to_owned(),
        ),
        Some(code) => (
            Reason::CredentialsRefused,
            format!(
                "STS refused to assume the role (code {code}); check spec.s3.credentials.assumeRole, and the trust policy, external ID and maximum session duration of the role"
            ),
        ),
        None => (
            Reason::StoreUnreachable,
            format!("STS does not answer: {}", unreachable(error)),
        ),
    };
    SignError::Credentials { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_are_valid_for_sts() {
        assert_eq!(session_name("web.avatar-42"), "valet-web.avatar-42");
        assert_eq!(session_name("a/b c").len(), "valet-a-b-c".len());
        assert_eq!(session_name(&"x".repeat(300)).len(), 64);
    }
}
