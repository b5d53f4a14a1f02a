//! Temporary credentials for one key: a role is assumed with a session policy that permits what the grant says and
//! nothing else (AWS STS API Reference, "AssumeRole"; IAM User Guide, "Session policies").

use std::sync::atomic::Ordering;

use aws_credential_types::Credentials;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sts::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{S3, Session};
use crate::{
    api::{Ask, AssumeRole, DownloadMode, Multipart, Reason, UploadConstraints, UploadMode},
    grant::{Lifetime, ObjectKey, SigningRequest, second},
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
    longest: i64,
    bucket: &str,
    request: &SigningRequest,
) -> Result<Credentials, SignError> {
    let policy = policy(role, bucket, request)?;
    let left = request.lifetime.expires_at.as_second() - Timestamp::now().as_second() + MARGIN;
    let seconds = left.max(SHORTEST).min(longest);
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
    let arn = |resource: &str| format!("arn:{partition}:s3:::{resource}");
    // Everything below, or the one object.
    let object = arn(&format!(
        "{bucket}/{key}{}",
        if request.key.is_prefix() { "*" } else { "" }
    ));
    let allow =
        |actions: &[&str], resource: String| json!({"Effect": "Allow", "Action": actions, "Resource": [resource]});
    let mut statements = match &request.ask {
        // Large files go up in parts, without being asked. Nobody can read what is there, nor take it away.
        Ask::Upload {
            mode: UploadMode::Credentials,
            ..
        } => vec![allow(
            &["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
            object,
        )],
        Ask::Upload { .. } => vec![allow(&["s3:PutObject"], object)],
        Ask::Download {
            mode: DownloadMode::Credentials,
            ..
        } if request.key.is_prefix() => {
            let mut list = allow(&["s3:ListBucket"], arn(bucket));
            list["Condition"] = json!({"StringLike": {"s3:prefix": [format!("{key}*")]}});
            vec![allow(&["s3:GetObject"], object), list]
        }
        Ask::Download { version: None, .. } => vec![allow(&["s3:GetObject"], object)],
        Ask::Download { version: Some(_), .. } => vec![allow(&["s3:GetObjectVersion"], object)],
    };
    // A URL has its end in its signature. A session lasts for 15 minutes at the least, and for a minute more than it is
    // needed: what is lent ends by the policy.
    if request.ask.is_for_credentials() {
        for statement in &mut statements {
            statement["Condition"]["DateLessThan"] =
                json!({"aws:CurrentTime": request.lifetime.expires_at.to_string()});
        }
    }
    Ok(json!({"Version": "2012-10-17", "Statement": statements}).to_string())
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
        api::UploadConstraints,
        grant::{Lifetime, ObjectKey},
    };

    fn request(key: &str, ask: Ask) -> SigningRequest {
        let t = Timestamp::UNIX_EPOCH;
        SigningRequest {
            key: ObjectKey::parse_scope(key, 1024).unwrap(),
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
                mode: DownloadMode::Url,
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

    /// What is lent: the verbs, what lies below the key and nothing beside it, and the end.
    #[test]
    fn a_policy_for_credentials() {
        let of = |key: &str, upload: bool| {
            let ask = if upload {
                Ask::Upload {
                    mode: UploadMode::Credentials,
                    multipart: Default::default(),
                    constraints: UploadConstraints::default(),
                }
            } else {
                Ask::Download {
                    mode: DownloadMode::Credentials,
                    version: None,
                    response: Default::default(),
                }
            };
            let policy = policy(&role(None), "media", &request(key, ask)).unwrap();
            serde_json::from_str::<serde_json::Value>(&policy).unwrap()["Statement"].take()
        };
        let end = json!({"DateLessThan": {"aws:CurrentTime": "1970-01-01T00:00:00Z"}});
        let writes = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"];
        for (key, resource) in [("a/b", "arn:aws:s3:::media/a/b"), ("a/b/", "arn:aws:s3:::media/a/b/*")] {
            assert_eq!(
                of(key, true),
                json!([{"Effect": "Allow", "Action": writes, "Resource": [resource], "Condition": end}])
            );
        }
        let read = |resource: &str| json!({"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [resource], "Condition": end});
        assert_eq!(of("a/b", false), json!([read("arn:aws:s3:::media/a/b")]));
        let mut list = end.clone();
        list["StringLike"] = json!({"s3:prefix": ["a/b/*"]});
        assert_eq!(
            of("a/b/", false),
            json!([
                read("arn:aws:s3:::media/a/b/*"),
                {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::media"], "Condition": list},
            ])
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
