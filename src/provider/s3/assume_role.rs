//! Temporary credentials for one object key or prefix. Valet assumes a role with a session policy. The session policy
//! allows only what the grant allows (AWS STS API Reference, "AssumeRole"; IAM User Guide, "Session policies").

use aws_credential_types::Credentials;
use aws_sdk_sts::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    amazon,
    credentials_cache::Session,
    responses::{unreachable, word},
    store::S3,
};
use crate::{
    api::{DownloadMode, OperationSpec, Reason, UploadMode, store::s3::AssumeRole},
    core::{SignError, SigningRequest},
    net::EgressPolicy,
};

/// An STS session lasts at least this number of seconds.
const SHORTEST: i64 = 900;
/// A session stays valid for 60 seconds after the credential that it signed has expired. Valet needs this margin
/// because the clocks can differ, and because an upload can begin in the last second before the expiry.
const MARGIN: i64 = 60;

/// A session policy can have at most this number of characters (AWS STS API Reference, "AssumeRole", `Policy`).
const LONGEST_POLICY: usize = 2048;

/// The maximum length of a value that Valet accepts from STS, in bytes. Session tokens are the longest values, and
/// they have only a few kilobytes.
const LONGEST_CREDENTIAL: usize = 16 * 1024;

/// If Valet assumes the role with the credentials of another session, the new session lasts at most this number of
/// seconds (IAM User Guide, "Roles terms and concepts": role chaining).
const LONGEST_CHAINED: i64 = 3600;

/// The message for a store with `assumeRole` if a tenant chose the STS endpoint.
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
    endpoint.is_none_or(|e| amazon::is_sts(e)) || s3.outward.as_ref().is_none_or(EgressPolicy::may_change)
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
    let policy = policy(role, bucket, request)?;
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

/// Returns true if the value contains no spaces and no line breaks, as in valid access keys and tokens. S3 clients
/// read a credentials file line by line.
///
/// A token with a line break could therefore add the setting `credential_process` to this file. The workload's S3
/// client would then run the program in this setting.
fn is_credential(text: &str) -> bool {
    (1..=LONGEST_CREDENTIAL).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Builds the session policy. The policy allows only the grant's operation on the grant's object key or prefix.
fn policy(role: &AssumeRole, bucket: &str, request: &SigningRequest) -> Result<String, SignError> {
    let key = request.key.as_str();
    // In a session policy, these characters are wildcards or begin variables. Some stores do not support an escaped
    // form of these characters.
    if let Some(wild) = key.chars().find(|c| matches!(c, '*' | '?' | '$')) {
        return Err(SignError::Impossible(format!(
            "spec.key contains '{wild}', but '{wild}' is a wildcard or variable in the session policies of a store with assumeRole; use an object key without '{wild}'"
        )));
    }
    // A role ARN has the form `arn:PARTITION:iam::...`.
    let partition = role
        .role_arn
        .as_deref()
        .and_then(|arn| arn.split(':').nth(1))
        .unwrap_or("aws");
    let arn = |resource: &str| format!("arn:{partition}:s3:::{resource}");
    // The resource in the policy is one object, or all objects with the prefix.
    let object = arn(&format!(
        "{bucket}/{key}{}",
        if request.key.is_prefix() { "*" } else { "" }
    ));
    let allow =
        |actions: &[&str], resource: &str| json!({"Effect": "Allow", "Action": actions, "Resource": [resource]});
    let mut statements = match &request.operation_spec {
        // By default, S3 clients upload a large file as a multipart upload, so the policy allows multipart uploads.
        // The policy does not allow reads or deletes.
        OperationSpec::Upload {
            mode: UploadMode::Credentials,
            ..
        } => vec![allow(
            &["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
            &object,
        )],
        OperationSpec::Upload { .. } => vec![allow(&["s3:PutObject"], &object)],
        OperationSpec::Download {
            mode: DownloadMode::Credentials,
            ..
        } if request.key.is_prefix() => {
            let mut list = allow(&["s3:ListBucket"], &arn(bucket));
            list["Condition"] = json!({"StringLike": {"s3:prefix": [format!("{key}*")]}});
            vec![allow(&["s3:GetObject"], &object), list]
        }
        OperationSpec::Download { version: None, .. } => vec![allow(&["s3:GetObject"], &object)],
        OperationSpec::Download { version: Some(_), .. } => vec![allow(&["s3:GetObjectVersion"], &object)],
    };
    if let Some(key) = &role.kms_key_arn {
        statements.push(encryption(
            key,
            &request.operation_spec,
            &arn(bucket),
            &object,
            request.key.is_prefix(),
        ));
    }
    // STS sessions last at least 15 minutes, and a session lasts one minute longer than its credential. Therefore the
    // session policy for temporary credentials contains the exact expiry.
    //
    // For a signed URL, the session policy needs no expiry, because the signature contains it.
    if request.operation_spec.is_for_credentials() {
        for statement in &mut statements {
            statement["Condition"]["DateLessThan"] =
                json!({"aws:CurrentTime": request.lifetime.expires_at.to_string()});
        }
    }
    let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    let length = policy.chars().count();
    if length > LONGEST_POLICY {
        return Err(SignError::Impossible(format!(
            "spec.key is too long for a store with assumeRole: the session policy has {length} characters, but STS accepts at most {LONGEST_POLICY}; use a shorter object key"
        )));
    }
    Ok(policy)
}

/// Builds the policy statement for the KMS key that encrypts the bucket's objects (Amazon S3 User Guide, "Using
/// server-side encryption with AWS KMS keys" and "Multipart upload API and permissions").
///
/// To write an object, S3 needs the KMS permission GenerateDataKey. To read an object, S3 needs the permission
/// Decrypt. For a multipart upload, S3 needs both permissions, because it reads the uploaded parts again.
///
/// The statement allows the KMS key only through S3 (AWS KMS Developer Guide, "kms:ViaService") and only for the
/// objects of the grant. S3 sends the object's ARN to KMS as the encryption context. For a bucket with an S3 Bucket
/// Key, S3 sends the bucket's ARN instead.
fn encryption(key: &str, operation_spec: &OperationSpec, bucket: &str, object: &str, is_prefix: bool) -> Value {
    let actions: &[&str] = match operation_spec {
        OperationSpec::Upload {
            mode: UploadMode::Multipart | UploadMode::Credentials,
            ..
        } => &["kms:GenerateDataKey", "kms:Decrypt"],
        OperationSpec::Upload { .. } => &["kms:GenerateDataKey"],
        OperationSpec::Download { .. } => &["kms:Decrypt"],
    };
    let region = key.split(':').nth(3).unwrap_or_default();
    let mut services = vec![format!("s3.{region}.amazonaws.com")];
    if region.starts_with("cn-") {
        // In the China regions, S3 hosts can have a second suffix. Host names with the first or the second suffix can
        // belong only to S3.
        services.push(format!("s3.{region}.amazonaws.com.cn"));
    }
    let mut condition = json!({"StringEquals": {"kms:ViaService": services}});
    let compare = if is_prefix { "StringLike" } else { "StringEquals" };
    condition[compare]["kms:EncryptionContext:aws:s3:arn"] = json!([object, bucket]);
    json!({"Effect": "Allow", "Action": actions, "Resource": [key], "Condition": condition})
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
    let code = error.as_service_error().and_then(|e| e.code()).and_then(word);
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
    use crate::{
        api::UploadConstraints,
        core::{Lifetime, ObjectKey},
    };

    fn request(key: &str, operation_spec: OperationSpec) -> SigningRequest {
        let t = Timestamp::UNIX_EPOCH;
        SigningRequest {
            key: ObjectKey::parse_scope(key, 1024).unwrap(),
            operation_spec,
            lifetime: Lifetime {
                issued_at: t,
                expires_at: t,
            },
            holder: "web.avatar".into(),
            upload: None,
        }
    }

    fn upload() -> OperationSpec {
        OperationSpec::Upload {
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
            kms_key_arn: None,
        }
    }

    fn upload_by(mode: UploadMode) -> OperationSpec {
        OperationSpec::Upload {
            mode,
            multipart: Default::default(),
            constraints: UploadConstraints::default(),
        }
    }

    fn download_by(mode: DownloadMode) -> OperationSpec {
        OperationSpec::Download {
            mode,
            version: None,
            response: Default::default(),
        }
    }

    /// If the bucket has a KMS key, the session policy allows this KMS key only through S3 and only for the objects
    /// of the grant.
    #[test]
    fn session_policy_allows_the_kms_key_only_through_s3() {
        let kms = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let encrypting = AssumeRole {
            kms_key_arn: Some(kms.into()),
            ..role(Some("arn:aws:iam::123456789012:role/valet"))
        };
        let of = |key: &str, operation_spec: OperationSpec| -> Vec<Value> {
            let text = policy(&encrypting, "media", &request(key, operation_spec.clone())).unwrap();
            let with: Value = serde_json::from_str(&text).unwrap();
            let mut statements = with["Statement"].as_array().unwrap().clone();
            let last = statements.pop().unwrap();
            // The policies with and without a KMS key differ only in the statement for the KMS key.
            let without = policy(
                &role(Some("arn:aws:iam::123456789012:role/valet")),
                "media",
                &request(key, operation_spec),
            );
            let without: Value = serde_json::from_str(&without.unwrap()).unwrap();
            assert_eq!(json!(statements), without["Statement"]);
            vec![last]
        };
        let put = of("a/b", upload_by(UploadMode::Put)).remove(0);
        assert_eq!(
            put,
            json!({
                "Effect": "Allow", "Action": ["kms:GenerateDataKey"], "Resource": [kms],
                "Condition": {"StringEquals": {
                    "kms:ViaService": ["s3.eu-west-1.amazonaws.com"],
                    "kms:EncryptionContext:aws:s3:arn": ["arn:aws:s3:::media/a/b", "arn:aws:s3:::media"],
                }},
            })
        );
        for (operation_spec, actions) in [
            (upload_by(UploadMode::PostForm), json!(["kms:GenerateDataKey"])),
            (
                upload_by(UploadMode::Multipart),
                json!(["kms:GenerateDataKey", "kms:Decrypt"]),
            ),
            (
                upload_by(UploadMode::Credentials),
                json!(["kms:GenerateDataKey", "kms:Decrypt"]),
            ),
            (download_by(DownloadMode::Url), json!(["kms:Decrypt"])),
            (download_by(DownloadMode::Credentials), json!(["kms:Decrypt"])),
        ] {
            let statement = of("a/b", operation_spec.clone()).remove(0);
            assert_eq!(statement["Action"], actions, "{operation_spec:?}");
            assert_eq!(
                statement["Condition"]["StringEquals"], put["Condition"]["StringEquals"],
                "{operation_spec:?}"
            );
            // The KMS statement of temporary credentials also contains the expiry of the credentials.
            assert_eq!(
                statement["Condition"].get("DateLessThan").is_some(),
                operation_spec.is_for_credentials(),
                "{operation_spec:?}"
            );
        }
        // For a prefix, the KMS statement covers all objects with this prefix. It also covers the bucket, because a
        // bucket can have an S3 Bucket Key.
        let below = of("a/b/", download_by(DownloadMode::Credentials)).remove(0);
        assert_eq!(
            below["Condition"]["StringLike"],
            json!({"kms:EncryptionContext:aws:s3:arn": ["arn:aws:s3:::media/a/b/*", "arn:aws:s3:::media"]})
        );
        assert_eq!(
            below["Condition"]["StringEquals"],
            json!({"kms:ViaService": ["s3.eu-west-1.amazonaws.com"]})
        );
    }

    #[test]
    fn session_policy_in_china_names_both_s3_hosts_for_the_kms_key() {
        let china = AssumeRole {
            kms_key_arn: Some("arn:aws-cn:kms:cn-north-1:123456789012:key/1234".into()),
            ..role(Some("arn:aws-cn:iam::123456789012:role/valet"))
        };
        let policy = policy(&china, "media", &request("k", upload())).unwrap();
        assert!(
            policy.contains(r#""kms:ViaService":["s3.cn-north-1.amazonaws.com","s3.cn-north-1.amazonaws.com.cn"]"#)
        );
        assert!(
            policy.contains(r#"["arn:aws-cn:s3:::media/k","arn:aws-cn:s3:::media"]"#),
            "{policy}"
        );
    }

    #[test]
    fn session_policy_allows_one_object_and_one_action() {
        let upload = request("a/b \"c\".png", upload());
        assert_eq!(
            policy(&role(None), "media", &upload).unwrap(),
            r#"{"Statement":[{"Action":["s3:PutObject"],"Effect":"Allow","Resource":["arn:aws:s3:::media/a/b \"c\".png"]}],"Version":"2012-10-17"}"#
        );
        let download = request(
            "k",
            OperationSpec::Download {
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

    /// The session policy of temporary credentials contains the operations, the object keys and the expiry.
    #[test]
    fn session_policy_for_credentials_allows_operations_and_keys() {
        let of = |key: &str, upload: bool| {
            let operation_spec = if upload {
                OperationSpec::Upload {
                    mode: UploadMode::Credentials,
                    multipart: Default::default(),
                    constraints: UploadConstraints::default(),
                }
            } else {
                OperationSpec::Download {
                    mode: DownloadMode::Credentials,
                    version: None,
                    response: Default::default(),
                }
            };
            let policy = policy(&role(None), "media", &request(key, operation_spec)).unwrap();
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
    fn object_key_with_pattern_characters_is_refused() {
        for key in ["a*", "a/?", "${aws:username}"] {
            let upload = request(key, upload());
            assert!(
                matches!(policy(&role(None), "media", &upload), Err(SignError::Impossible(_))),
                "{key}"
            );
        }
    }

    /// The session policy contains the object key once for S3 and once for KMS. If the policy also allows listing, it
    /// contains the object key a third time.
    #[test]
    fn object_key_too_long_for_the_session_policy_is_refused() {
        let mut role = role(Some("arn:aws:iam::123456789012:role/valet"));
        let long = "k".repeat(1000);
        assert!(policy(&role, "media", &request(&long, upload())).is_ok());
        role.kms_key_arn = Some("arn:aws:kms:eu-west-1:123456789012:key/1234".into());
        let refused = policy(&role, "media", &request(&long, upload())).unwrap_err();
        assert!(matches!(&refused, SignError::Impossible(why) if why.contains("STS accepts at most 2048")));
        let fits = (0..1000)
            .rev()
            .find(|n| policy(&role, "media", &request(&"k".repeat(*n), upload())).is_ok());
        let text = policy(&role, "media", &request(&"k".repeat(fits.unwrap()), upload())).unwrap();
        assert!((2047..=2048).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn session_names_are_valid_for_sts() {
        assert_eq!(session_name("web.avatar-42"), "valet-web.avatar-42");
        assert_eq!(session_name("a/b c").len(), "valet-a-b-c".len());
        assert_eq!(session_name(&"x".repeat(300)).len(), 64);
    }
}
