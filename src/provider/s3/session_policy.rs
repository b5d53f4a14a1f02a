//! Session policies: they limit the session of a grant to the grant's operation and object key (IAM User Guide,
//! "Session policies").

use serde_json::{Value, json};

use crate::{
    api::{DownloadMode, OperationSpec, UploadMode, store::s3::AssumeRole},
    core::{SignError, SigningRequest},
};

/// A session policy can have at most this number of characters (AWS STS API Reference, "AssumeRole", `Policy`).
const LONGEST_POLICY: usize = 2048;

/// Builds the session policy. The policy allows only the grant's operation on the grant's object key or prefix.
pub fn of(role: &AssumeRole, bucket: &str, request: &SigningRequest) -> Result<String, SignError> {
    let key = request.key.as_str();
    // In a session policy, the characters `*` and `?` are wildcards, and `$` begins a variable. Some stores do not
    // support an escaped form of these characters.
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
    // A session usually ends later than the credential's expiry. STS creates no session of less than 15 minutes, and
    // Valet requests one minute more than the credential needs. Therefore the session policy for temporary credentials
    // contains the exact expiry.
    //
    // For a signed URL, the session policy needs no expiry, because the signed URL itself contains its expiry.
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
        // In the China regions, the host name of S3 can end with `amazonaws.com` or with `amazonaws.com.cn`. The policy
        // allows both host names, because no other service uses them.
        services.push(format!("s3.{region}.amazonaws.com.cn"));
    }
    let mut condition = json!({"StringEquals": {"kms:ViaService": services}});
    let compare = if is_prefix { "StringLike" } else { "StringEquals" };
    condition[compare]["kms:EncryptionContext:aws:s3:arn"] = json!([object, bucket]);
    json!({"Effect": "Allow", "Action": actions, "Resource": [key], "Condition": condition})
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

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
            let text = of(&encrypting, "media", &request(key, operation_spec.clone())).unwrap();
            let with: Value = serde_json::from_str(&text).unwrap();
            let mut statements = with["Statement"].as_array().unwrap().clone();
            let last = statements.pop().unwrap();
            // The policies with and without a KMS key differ only in the statement for the KMS key.
            let without = of(
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
        let check_prefix = of("a/b/", download_by(DownloadMode::Credentials)).remove(0);
        assert_eq!(
            check_prefix["Condition"]["StringLike"],
            json!({"kms:EncryptionContext:aws:s3:arn": ["arn:aws:s3:::media/a/b/*", "arn:aws:s3:::media"]})
        );
        assert_eq!(
            check_prefix["Condition"]["StringEquals"],
            json!({"kms:ViaService": ["s3.eu-west-1.amazonaws.com"]})
        );
    }

    #[test]
    fn session_policy_in_china_names_both_s3_hosts_for_the_kms_key() {
        let china = AssumeRole {
            kms_key_arn: Some("arn:aws-cn:kms:cn-north-1:123456789012:key/1234".into()),
            ..role(Some("arn:aws-cn:iam::123456789012:role/valet"))
        };
        let policy = of(&china, "media", &request("k", upload())).unwrap();
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
            of(&role(None), "media", &upload).unwrap(),
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
        let policy = of(&china, "media", &download).unwrap();
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
            let policy = of(&role(None), "media", &request(key, operation_spec)).unwrap();
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
                matches!(of(&role(None), "media", &upload), Err(SignError::Impossible(_))),
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
        assert!(of(&role, "media", &request(&long, upload())).is_ok());
        role.kms_key_arn = Some("arn:aws:kms:eu-west-1:123456789012:key/1234".into());
        let refused = of(&role, "media", &request(&long, upload())).unwrap_err();
        assert!(matches!(&refused, SignError::Impossible(why) if why.contains("STS accepts at most 2048")));
        let fits = (0..1000)
            .rev()
            .find(|n| of(&role, "media", &request(&"k".repeat(*n), upload())).is_ok());
        let text = of(&role, "media", &request(&"k".repeat(fits.unwrap()), upload())).unwrap();
        assert!((2047..=2048).contains(&text.len()), "{}", text.len());
    }
}
