//! Temporary credentials for one key: a role is assumed with a session policy that permits what the grant says and
//! nothing else (AWS STS API Reference, "AssumeRole"; IAM User Guide, "Session policies").

use aws_credential_types::Credentials;
use aws_sdk_sts::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;

use crate::{
    api::{Ask, AssumeRole, Reason},
    grant::SigningRequest,
    sign::SignError,
};

/// The shortest session that STS makes, in seconds.
const SHORTEST: i64 = 900;
/// A session outlives its key by this much, in seconds: clocks differ, and an upload may begin at the last moment.
const MARGIN: i64 = 60;

/// Assumes the role for one key.
///
/// # Errors
/// [`SignError::Impossible`] for a key that a policy cannot name alone; [`SignError::Credentials`] if STS says no.
pub async fn credentials(
    client: &Client,
    role: &AssumeRole,
    bucket: &str,
    request: &SigningRequest,
) -> Result<Credentials, SignError> {
    let policy = policy(role, bucket, request)?;
    let left = request.lifetime.expires_at.as_second() - Timestamp::now().as_second() + MARGIN;
    let seconds = left.max(SHORTEST).min(role.duration_seconds);
    let answer = client
        .assume_role()
        // MinIO wants none, and the protocol one.
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
        message: "STS answered without credentials; is spec.s3.credentials.assumeRole.endpoint an STS?".into(),
    })?;
    let end = Timestamp::from_second(given.expiration.secs()).unwrap_or(Timestamp::UNIX_EPOCH);
    if end < request.lifetime.expires_at {
        return Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!(
                "STS gave a session that ends at {end}, before the key would; lower spec.s3.credentials.assumeRole.durationSeconds to what the role allows"
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

/// What the session may do: the grant's verb on the grant's object.
fn policy(role: &AssumeRole, bucket: &str, request: &SigningRequest) -> Result<String, SignError> {
    let key = request.key.as_str();
    // In a policy these stand for other things than themselves, and not every store knows how to quote them.
    if let Some(wild) = key.chars().find(|c| matches!(c, '*' | '?' | '$')) {
        return Err(SignError::Impossible(format!(
            "spec.key has a '{wild}', which in a session policy would name other objects, too; use a key without it on a store with assumeRole"
        )));
    }
    // arn:PARTITION:iam::...
    let partition = role
        .role_arn
        .as_deref()
        .and_then(|arn| arn.split(':').nth(1))
        .unwrap_or("aws");
    let actions: &[&str] = match &request.ask {
        Ask::Upload { .. } => &["s3:PutObject"],
        Ask::Download { version: None, .. } => &["s3:GetObject"],
        Ask::Download { version: Some(_), .. } => &["s3:GetObjectVersion"],
    };
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": actions,
            "Resource": [format!("arn:{partition}:s3:::{bucket}/{key}")],
        }],
    });
    Ok(policy.to_string())
}

/// Who the session is for, as CloudTrail shows it: 2 to 64 of letters, digits and `_=,.@-`.
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

/// Why there is no session. The answer's own text can name accounts and roles, which tenants need not know.
fn denied<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> SignError {
    let code = error.as_service_error().and_then(|e| e.code());
    let (reason, message) = match code {
        Some("ExpiredToken" | "ExpiredTokenException") => (
            Reason::CredentialsExpired,
            "the credentials that assume the role have expired; renew them".to_owned(),
        ),
        Some(code) => (
            Reason::CredentialsRefused,
            format!(
                "STS did not let the credentials assume the role for this key ({code}); check spec.s3.credentials.assumeRole and the role's trust policy, maximum duration and external id"
            ),
        ),
        None => (
            Reason::StoreUnreachable,
            format!("STS does not answer: {}", super::unreachable(error)),
        ),
    };
    SignError::Credentials { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{UploadConstraints, UploadMode},
        grant::{Lifetime, ObjectKey},
    };

    fn request(key: &str, ask: Ask) -> SigningRequest {
        let t = Timestamp::UNIX_EPOCH;
        SigningRequest {
            key: ObjectKey::parse(key, 1024).unwrap(),
            ask,
            lifetime: Lifetime {
                issued_at: t,
                expires_at: t,
            },
            holder: "web.avatar".into(),
            upload: None,
        }
    }

    fn upload() -> Ask {
        Ask::Upload {
            mode: UploadMode::Put,
            multipart: Default::default(),
            constraints: UploadConstraints::default(),
        }
    }

    fn role(arn: Option<&str>) -> AssumeRole {
        AssumeRole {
            role_arn: arn.map(str::to_owned),
            external_id: None,
            duration_seconds: 3600,
            endpoint: None,
        }
    }

    #[test]
    fn a_policy_names_one_object_and_one_verb() {
        let upload = request("a/b \"c\".png", upload());
        assert_eq!(
            policy(&role(None), "media", &upload).unwrap(),
            r#"{"Statement":[{"Action":["s3:PutObject"],"Effect":"Allow","Resource":["arn:aws:s3:::media/a/b \"c\".png"]}],"Version":"2012-10-17"}"#
        );
        let download = request(
            "k",
            Ask::Download {
                version: Some("v".into()),
                response: Default::default(),
            },
        );
        let china = role(Some("arn:aws-cn:iam::123456789012:role/valet"));
        let policy = policy(&china, "media", &download).unwrap();
        assert!(
            policy.contains("s3:GetObjectVersion\"") && policy.contains("arn:aws-cn:s3:::media/k"),
            "{policy}"
        );
    }

    #[test]
    fn a_key_that_would_be_a_pattern_is_refused() {
        for key in ["a*", "a/?", "${aws:username}"] {
            let upload = request(key, upload());
            assert!(
                matches!(policy(&role(None), "media", &upload), Err(SignError::Impossible(_))),
                "{key}"
            );
        }
    }

    #[test]
    fn session_names_are_what_sts_takes() {
        assert_eq!(session_name("web.avatar-42"), "valet-web.avatar-42");
        assert_eq!(session_name("a/b c").len(), "valet-a-b-c".len());
        assert_eq!(session_name(&"x".repeat(300)).len(), 64);
    }
}
