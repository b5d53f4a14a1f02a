//! Endpoints of tenants' stores that would lead inwards only together with the bucket's name.

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet::{
    api::{Ask, DownloadMode, ResponseHeaders},
    grant::{Lifetime, ObjectKey, SigningRequest},
    sign::{Provider, s3::S3},
};

/// With the bucket in the host, `127` and `1.1.1` would be an address of this machine, although the endpoint's host is one of
/// somebody else's (1.1.0.1, as addresses may be written). Nobody looks a name up for an address, so nobody would be
/// refused: a bucket's name must not come before such a host.
#[tokio::test]
async fn a_bucket_and_a_host_that_would_be_an_address() {
    for (bucket, host) in [
        ("127", "1.1.1"),
        ("172", "16.1.1"),
        ("169.254", "169.254"),
        ("127", "0x1.1.1"),
    ] {
        let settings = json!({"bucket": bucket, "region": "us-east-1", "endpoint": format!("http://{host}:9000")});
        let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
        let s3 = S3::new(serde_json::from_value(settings).unwrap(), credentials, None);
        let now = Timestamp::now();
        let request = SigningRequest {
            key: ObjectKey::parse("a", 1024).unwrap(),
            ask: Ask::Download {
                mode: DownloadMode::Url,
                version: None,
                response: ResponseHeaders::default(),
            },
            lifetime: Lifetime {
                issued_at: now,
                expires_at: now + SignedDuration::from_mins(1),
            },
            holder: "web.a".into(),
            upload: None,
        };
        let signed = s3.sign(&request).await.unwrap();
        let url = signed.url().unwrap().expose();
        let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        assert!(path.starts_with(&format!("{bucket}/a?")), "{path}");
        assert!(!authority.starts_with(bucket) || bucket == "169.254", "{authority}");
        assert_ne!(authority, "169.254.169.254:9000");
    }
}
