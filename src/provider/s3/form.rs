//! POST forms of Amazon S3 ("Browser-Based Uploads Using POST", AWS Signature Version 4). A POST form contains a
//! policy, which lists the allowed form fields. The signature covers the policy.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_s3::{Client, presigning::PresigningConfig};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::{limits::MAX_PUT_BYTES, responses::refused};
use crate::{
    api::{LengthRange, Overwrite, UploadConstraints},
    core::{Form, Lifetime, SignError, SignedUrl},
};

/// A placeholder in the object key of a form. Stores replace it with the name of the uploaded file.
const FILE_NAME: &str = "${filename}";

/// Returns the URL to which clients send the POST forms of a bucket. The AWS SDK knows the rules for regions,
/// endpoints and addressing styles, but it returns only URLs of objects. Therefore this function requests the URL of
/// an object and removes the object key from the URL.
pub async fn action(client: &Client, bucket: &str, presigning: PresigningConfig) -> Result<SignedUrl, SignError> {
    const OBJECT: &str = "/x";
    let object = client.head_object().bucket(bucket).key(&OBJECT[1..]);
    let url = object.presigned(presigning).await.map_err(|e| refused(&e))?;
    let url = url.uri().split('?').next().and_then(|path| path.strip_suffix(OBJECT));
    let url = url.ok_or_else(|| {
        SignError::Refused(
            "the URL of the bucket could not be built; check spec.s3.bucket, spec.s3.region and spec.s3.endpoint"
                .into(),
        )
    })?;
    // If the bucket name is part of the host name, the URL has no path. A URL needs a path, so the function adds `/`.
    let slash = if url.matches('/').count() == 2 { "/" } else { "" };
    Ok(SignedUrl::new(format!("{url}{slash}")))
}

/// The bucket and the object key for the upload of a POST form.
pub struct Target<'a> {
    pub bucket: &'a str,
    pub region: &'a str,
    /// The object key. If it ends with `/`, it is a prefix.
    pub key: &'a str,
}

/// Signs a POST form. The policy contains each field with its value, so the store refuses requests with different
/// values or with further fields. The store also checks the size of the uploaded file. If the form contains a
/// checksum, the store also checks the checksum.
///
/// If the object key ends with `/`, it is a prefix. The policy then requires only that the key of the uploaded object
/// begins with the prefix. The store adds the name of the uploaded file to the prefix. The holder of the form can
/// choose any file name.
pub fn sign(
    credentials: &Credentials,
    target: &Target<'_>,
    constraints: &UploadConstraints,
    lifetime: Lifetime,
) -> Result<Form, SignError> {
    let UploadConstraints {
        content_type,
        content_length,
        content_length_range,
        checksum_sha256,
        checksum_md5,
        overwrite,
    } = constraints;
    if *overwrite == Overwrite::Forbid {
        return Err(SignError::Refused("a POST form cannot be write-once".into()));
    }
    if checksum_md5.is_some() {
        // Valet does not support an MD5 in a form. Amazon documents a form field for the MD5, but some stores do not
        // check it. The store versitygw ignores this field, and MinIO accepts wrong values in it.
        return Err(SignError::Refused(
            "spec.constraints.checksumMD5: a POST form cannot enforce an MD5 checksum; use checksumSHA256".into(),
        ));
    }
    if target.key.contains(FILE_NAME) {
        return Err(SignError::Refused(format!(
            "spec.key: the object key of a POST form is not allowed to contain {FILE_NAME}, because stores replace this text with the file name"
        )));
    }
    let range = match (content_length, content_length_range) {
        (None, None) => LengthRange {
            min: 0,
            max: MAX_PUT_BYTES,
        },
        (None, Some(range)) => *range,
        (Some(n), None) => LengthRange { min: *n, max: *n },
        (Some(_), Some(_)) => {
            return Err(SignError::Refused(
                "spec.constraints: contentLength and contentLengthRange are both set; remove one of these fields"
                    .into(),
            ));
        }
    };
    if range.max > MAX_PUT_BYTES {
        return Err(SignError::Refused(format!(
            "a POST form can upload at most {MAX_PUT_BYTES} bytes; reduce the size in spec.constraints"
        )));
    }

    let issued = lifetime.issued_at.to_zoned(TimeZone::UTC);
    let (day, time) = (issued.strftime("%Y%m%d").to_string(), issued.strftime("%Y%m%dT%H%M%SZ"));
    let scope = format!("{day}/{}/s3/aws4_request", target.region);
    let key = if is_prefix(target.key) {
        target.key.to_owned() + FILE_NAME
    } else {
        target.key.to_owned()
    };
    let mut fields = vec![("key".to_owned(), key)];
    let mut field = |name: &str, value: String| fields.push((name.to_owned(), value));
    if let Some(content_type) = content_type {
        field("Content-Type", content_type.clone());
    }
    if let Some(checksum) = checksum_sha256 {
        field("x-amz-checksum-algorithm", "SHA256".into());
        field("x-amz-checksum-sha256", checksum.clone());
    }
    field("x-amz-algorithm", "AWS4-HMAC-SHA256".into());
    field("x-amz-credential", format!("{}/{scope}", credentials.access_key_id()));
    field("x-amz-date", time.to_string());
    if let Some(token) = credentials.session_token() {
        field("x-amz-security-token", token.to_owned());
    }

    let policy = BASE64_STANDARD.encode(policy(target, &fields, range, lifetime.expires_at));
    let key = generate_signing_key(
        credentials.secret_access_key(),
        SystemTime::from(lifetime.issued_at),
        target.region,
        "s3",
    );
    let signature = calculate_signature(key, policy.as_bytes());
    fields.push(("policy".into(), policy));
    fields.push(("x-amz-signature".into(), signature));
    Ok(Form::new(fields))
}

fn is_prefix(key: &str) -> bool {
    key.ends_with('/')
}

/// Builds the policy in JSON. The condition `{name: value}` means that the field must have exactly this value.
fn policy(target: &Target<'_>, fields: &[(String, String)], range: LengthRange, expires_at: Timestamp) -> String {
    // In the policy of a form, a dollar sign begins a variable. Therefore Valet writes the JSON escape `\u0024`,
    // which does not begin a variable. A JSON parser decodes this escape to a dollar sign.
    let quoted = |text: &str| Value::from(text).to_string().replace('$', "\\u0024");
    let exact_size = |name: &str, value: &str| format!("{{{}:{}}}", quoted(name), quoted(value));
    let mut conditions = vec![exact_size("bucket", target.bucket)];
    conditions.extend(fields.iter().map(|(name, value)| match name.as_str() {
        "key" if is_prefix(target.key) => format!("[\"starts-with\",\"$key\",{}]", quoted(target.key)),
        _ => exact_size(name, value),
    }));
    conditions.push(format!("[\"content-length-range\",{},{}]", range.min, range.max));
    // The policy contains the expiry in whole seconds. Every expiry that Valet sets is in whole seconds.
    let expiration = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    format!(
        "{{\"expiration\":{},\"conditions\":[{}]}}",
        quoted(&expiration),
        conditions.join(",")
    )
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::SharedCredentialsProvider;
    use serde_json::json;

    use super::*;
    use crate::{
        api::{Multipart, OperationSpec, UploadMode},
        core::{ObjectKey, SigningRequest},
        provider::s3::S3,
    };

    const TARGET: Target<'static> = Target {
        bucket: "media",
        region: "us-east-1",
        key: "a/$b",
    };

    fn lifetime() -> Lifetime {
        Lifetime {
            issued_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            expires_at: "2026-01-02T04:04:05Z".parse().unwrap(),
        }
    }

    fn replaceable() -> UploadConstraints {
        UploadConstraints {
            overwrite: Overwrite::Allow,
            ..UploadConstraints::default()
        }
    }

    fn signed(credentials: &Credentials, constraints: &UploadConstraints) -> (Vec<(String, String)>, Value) {
        let form = sign(credentials, &TARGET, constraints, lifetime()).unwrap();
        let fields = form.expose().to_vec();
        let policy = &fields.iter().find(|(name, _)| name == "policy").unwrap().1;
        let policy = String::from_utf8(BASE64_STANDARD.decode(policy).unwrap()).unwrap();
        assert!(!policy.contains('$'), "{policy}");
        (fields, serde_json::from_str(&policy).unwrap())
    }

    fn credentials(token: Option<&str>) -> Credentials {
        Credentials::new("AKID", "secret", token.map(str::to_owned), None, "test")
    }

    /// Compares with an example from Amazon's documentation ("Example: Browser-Based Upload using HTTP POST (Using
    /// AWS Signature Version 4)"). The bytes of the policy and the signature must both be equal to the example.
    #[test]
    fn post_form_signature_equals_the_example_of_amazon() {
        let policy = "{ \"expiration\": \"2015-12-30T12:00:00.000Z\",\r\n  \"conditions\": [\r\n    {\"bucket\": \"sigv4examplebucket\"},\r\n    [\"starts-with\", \"$key\", \"user/user1/\"],\r\n    {\"acl\": \"public-read\"},\r\n    {\"success_action_redirect\": \"http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html\"},\r\n    [\"starts-with\", \"$Content-Type\", \"image/\"],\r\n    {\"x-amz-meta-uuid\": \"14365123651274\"},\r\n    {\"x-amz-server-side-encryption\": \"AES256\"},\r\n    [\"starts-with\", \"$x-amz-meta-tag\", \"\"],\r\n\r\n    {\"x-amz-credential\": \"AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request\"},\r\n    {\"x-amz-algorithm\": \"AWS4-HMAC-SHA256\"},\r\n    {\"x-amz-date\": \"20151229T000000Z\" }\r\n  ]\r\n}";
        let day: Timestamp = "2015-12-29T00:00:00Z".parse().unwrap();
        let key = generate_signing_key(
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            SystemTime::from(day),
            "us-east-1",
            "s3",
        );
        assert_eq!(
            calculate_signature(key, BASE64_STANDARD.encode(policy).as_bytes()),
            "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"
        );
    }

    #[test]
    fn post_form_policy_contains_every_field() {
        let checksum = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
        let constraints = UploadConstraints {
            content_type: Some("image/png".into()),
            checksum_sha256: Some(checksum.into()),
            ..replaceable()
        };
        let (fields, policy) = signed(&credentials(Some("to/ken")), &constraints);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "key",
                "Content-Type",
                "x-amz-checksum-algorithm",
                "x-amz-checksum-sha256",
                "x-amz-algorithm",
                "x-amz-credential",
                "x-amz-date",
                "x-amz-security-token",
                "policy",
                "x-amz-signature"
            ]
        );
        assert_eq!(
            policy,
            json!({
                "expiration": "2026-01-02T04:04:05Z",
                "conditions": [
                    {"bucket": "media"},
                    {"key": "a/$b"},
                    {"Content-Type": "image/png"},
                    {"x-amz-checksum-algorithm": "SHA256"},
                    {"x-amz-checksum-sha256": checksum},
                    {"x-amz-algorithm": "AWS4-HMAC-SHA256"},
                    {"x-amz-credential": "AKID/20260102/us-east-1/s3/aws4_request"},
                    {"x-amz-date": "20260102T030405Z"},
                    {"x-amz-security-token": "to/ken"},
                    ["content-length-range", 0, MAX_PUT_BYTES],
                ],
            })
        );
    }

    /// If the object key is a prefix, the policy requires only that the key of the uploaded object begins with the
    /// prefix. A dollar sign in the prefix must not begin a variable.
    #[test]
    fn post_form_policy_for_a_prefix_uses_starts_with() {
        let target = Target { key: "a/$b/", ..TARGET };
        let form = sign(&credentials(None), &target, &replaceable(), lifetime()).unwrap();
        let fields = form.expose();
        assert_eq!(fields[0], ("key".to_owned(), "a/$b/${filename}".to_owned()));
        let policy = &fields.iter().find(|(name, _)| name == "policy").unwrap().1;
        let policy = String::from_utf8(BASE64_STANDARD.decode(policy).unwrap()).unwrap();
        assert_eq!(
            policy,
            format!(
                r#"{{"expiration":"2026-01-02T04:04:05Z","conditions":[{{"bucket":"media"}},["starts-with","$key","a/\u0024b/"],{{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},{{"x-amz-credential":"AKID/20260102/us-east-1/s3/aws4_request"}},{{"x-amz-date":"20260102T030405Z"}},["content-length-range",0,{MAX_PUT_BYTES}]]}}"#
            )
        );
    }

    #[test]
    fn post_form_policy_has_the_content_length_range() {
        let range = |length: Option<i64>, range: Option<(i64, i64)>| {
            let constraints = UploadConstraints {
                content_length: length,
                content_length_range: range.map(|(min, max)| LengthRange { min, max }),
                ..replaceable()
            };
            let conditions = signed(&credentials(None), &constraints).1["conditions"].clone();
            conditions.as_array().unwrap().last().cloned().unwrap()
        };
        assert_eq!(range(None, None), json!(["content-length-range", 0, 5_368_709_120_i64]));
        assert_eq!(range(Some(7), None), json!(["content-length-range", 7, 7]));
        assert_eq!(range(None, Some((3, 9))), json!(["content-length-range", 3, 9]));
        assert_eq!(range(Some(MAX_PUT_BYTES), None)[2], MAX_PUT_BYTES);
    }

    /// Checks the bucket's URL for each addressing style. The expected URLs come from botocore
    /// (`generate_presigned_post`).
    #[tokio::test]
    async fn post_form_url_is_the_url_of_the_bucket() {
        for (settings, expected) in [
            (json!({}), "https://media.s3.eu-west-1.amazonaws.com/"),
            (
                json!({"bucket": "media.example"}),
                "https://s3.eu-west-1.amazonaws.com/media.example",
            ),
            (
                json!({"endpoint": "http://127.0.0.1:9000", "addressingStyle": "Path"}),
                "http://127.0.0.1:9000/media",
            ),
            (
                json!({"endpoint": "https://inside:9000", "publicEndpoint": "https://s3.example.com/"}),
                "https://media.s3.example.com/",
            ),
        ] {
            let mut store = json!({"bucket": "media", "region": "eu-west-1"});
            store
                .as_object_mut()
                .unwrap()
                .extend(settings.as_object().unwrap().clone());
            let provider = S3::new(
                serde_json::from_value(store).unwrap(),
                SharedCredentialsProvider::new(credentials(None)),
                None,
            );
            let request = SigningRequest {
                key: ObjectKey::parse("a/x", 1024).unwrap(),
                operation_spec: OperationSpec::Upload {
                    mode: UploadMode::PostForm,
                    multipart: Multipart::default(),
                    constraints: replaceable(),
                },
                lifetime: lifetime(),
                holder: "web.x".into(),
                upload: None,
            };
            let signed = provider.sign_request(&request).await.unwrap();
            assert_eq!(signed.url().unwrap().expose(), expected);
        }
    }

    #[test]
    fn constraint_that_a_post_form_cannot_express_is_not_signed() {
        let refused = |key: &'static str, constraints: UploadConstraints| {
            let target = Target { key, ..TARGET };
            match sign(&credentials(None), &target, &constraints, lifetime()) {
                Err(SignError::Refused(why)) => why,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused("a", UploadConstraints::default()).contains("write-once"));
        assert!(refused("a/${filename}", replaceable()).contains("${filename}"));
        assert!(refused("a/${filename}/", replaceable()).contains("${filename}"));
        let range = LengthRange {
            min: 0,
            max: MAX_PUT_BYTES + 1,
        };
        let large = UploadConstraints {
            content_length_range: Some(range),
            ..replaceable()
        };
        assert!(refused("a", large.clone()).contains("at most 5368709120"));
        let summed = UploadConstraints {
            checksum_md5: Some("XUFAKrxLKna5cZ2REBfFkg==".into()),
            ..replaceable()
        };
        assert!(refused("a", summed).contains("cannot enforce an MD5 checksum"));
        let both = UploadConstraints {
            content_length: Some(1),
            ..large
        };
        assert!(refused("a", both).contains("are both set"));
    }
}
