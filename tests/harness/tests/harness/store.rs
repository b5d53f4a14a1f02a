//! Tests of the S3 server: bytes, versions, users and restarts.

use serde_json::json;
use valet_harness::{S3Server, UrlCheck, verify};

use crate::{STORE, TOOLS, curl};

#[test]
fn s3_server_keeps_bytes_and_versions_for_any_key() {
    STORE.create_versioned_bucket("versioned").unwrap();
    for key in [
        "plain",
        "a b+c%2F&=?#",
        "ü/日本/\u{1f511}",
        "tenants/web/it's (1)!*~.txt",
    ] {
        STORE.put("versioned", key, b"one").unwrap();
        let second = STORE.put("versioned", key, b"second").unwrap();
        assert_eq!(
            STORE.get("versioned", key).unwrap().as_deref(),
            Some(&b"second"[..]),
            "{key}"
        );
        let versions = STORE.versions("versioned", key).unwrap();
        let sizes: Vec<u64> = versions.iter().map(|version| version.size).collect();
        assert_eq!(sizes, [6, 3], "{key}");
        assert_eq!(
            second.header("x-amz-version-id"),
            Some(versions[0].version.as_str()),
            "{key}"
        );
        STORE.delete("versioned", key).unwrap();
        assert!(STORE.head("versioned", key).unwrap().is_none(), "{key}");
    }
    assert_eq!(STORE.get("versioned", "never").unwrap(), None);
    assert!(
        STORE
            .put("no-such-bucket", "key", b"")
            .unwrap_err()
            .to_string()
            .contains("NoSuchBucket")
    );
}

#[test]
fn restarted_s3_server_keeps_its_address_and_its_data() {
    let store = S3Server::start(&TOOLS).unwrap();
    store.create_bucket("media").unwrap();
    store.put("media", "key", b"bytes").unwrap();
    store.stop();
    assert!(store.get("media", "key").unwrap_err().to_string().contains("refused"));
    store.start_again().unwrap();
    assert_eq!(store.get("media", "key").unwrap().as_deref(), Some(&b"bytes"[..]));
}

#[test]
fn s3_user_has_the_permissions_of_the_policy_until_deleted() {
    STORE.create_bucket("shared").unwrap();
    STORE.create_user("SIGNER", "signers-secret").unwrap();
    STORE.put("shared", "key", b"bytes").unwrap();
    let check = UrlCheck {
        access_key: "SIGNER".into(),
        secret_key: "signers-secret".into(),
        region: STORE.region().into(),
        ..UrlCheck::default()
    };
    let params = json!({"Bucket": "shared", "Key": "key"});
    let url = verify::presign(&TOOLS, &STORE.endpoint(), &check, "get_object", &params, 60).unwrap();
    assert_eq!(curl(&[&url]), (403, String::from("AccessDenied")));
    STORE
        .put_bucket_policy(
            "shared",
            &json!({"Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Principal": {"AWS": "SIGNER"}, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::shared/*",
            }]}),
        )
        .unwrap();
    assert_eq!(curl(&[&url]), (200, String::from("bytes")));
    STORE.delete_user("SIGNER").unwrap();
    assert_eq!(curl(&[&url]), (403, String::from("InvalidAccessKeyId")));
}
