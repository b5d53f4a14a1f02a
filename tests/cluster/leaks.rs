//! Tests that no URL or credential appears in a log, event, status, metric or error at any log level (I7).

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET};

#[test]
fn credentials_appear_in_no_log_event_status_or_metric() {
    let t = Tenant::new("leaks");
    // A user of the store with a recognizable access key. The access key ID is part of each signed URL, and the
    // secret key signs.
    let (id, secret) = ("markeridmarkerid", "markersecret/marker+secret=");
    t.world.s3.create_user(id, secret).unwrap();
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": [id]}, "Action": "s3:*",
        "Resource": [format!("arn:aws:s3:::{}", t.name()), format!("arn:aws:s3:::{}/*", t.name())],
    }]});
    t.world.s3.put_bucket_policy(t.name(), &policy).unwrap();
    t.apply(&[t.credentials(id, secret)]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec!["--log-level=trace".into(), "--watch-secrets".into()],
        env: vec![("RUST_BACKTRACE".into(), "1".into())],
        ..OperatorOptions::default()
    };
    let operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    t.apply(&[
        t.grant("UploadGrant", "up", json!({})),
        t.grant(
            "UploadGrant",
            "form",
            json!({"mode": "PostForm", "constraints": {"overwrite": "Allow"}}),
        ),
        t.grant(
            "UploadGrant",
            "parts",
            json!({"mode": "Multipart", "constraints": {"contentLength": 3}, "expirationSeconds": 5}),
        ),
        t.grant("DownloadGrant", "short", json!({"expirationSeconds": 2})),
        t.grant("DownloadGrant", "again", json!({})),
        t.grant("UploadGrant", "no", json!({"key": "not/allowed"})),
    ]);
    t.reason("ug/up", "Issued");
    t.reason("ug/form", "Issued");
    let parts = t.mount("parts").files["parts.json"].clone();
    assert!(parts.contains(id));
    t.reason("ug/parts", "ExpiredUnused");
    t.reason("dg/short", "Expired");
    t.reason("dg/again", "Issued");
    t.reason("ug/no", "KeyNotAllowed");
    let key = t.mount("up");
    assert!(key.files["url"].contains(id), "the marker is where it belongs");
    assert_eq!(key.upload(&t.file("f", b"x")).0, 200);
    t.kubectl(&["delete", "secret/again"]);
    eventually(SOON, "the Secret to be restored", || t.get("secret/again"));
    t.reason("ug/up", "Completed");

    let log = operator.log_text();
    assert!(
        log.contains("credential issued") && log.contains("\"TRACE\""),
        "the log is there, at TRACE"
    );
    let signature = key.files["url"].split("X-Amz-Signature=").nth(1).unwrap().to_owned();
    let part_signature = parts
        .split("X-Amz-Signature=")
        .nth(1)
        .unwrap()
        .split(['&', '"'])
        .next()
        .unwrap()
        .to_owned();
    let form: serde_json::Value = serde_json::from_str(&t.mount("form").files["fields.json"]).unwrap();
    let field = |name: &str| form[name].as_str().unwrap().to_owned();
    let (policy, form_signature) = (field("policy"), field("x-amz-signature"));
    let encoded = |text: &str| {
        let base64 = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s '{text}' | base64 -w0")])
            .output()
            .unwrap();
        let base64 = String::from_utf8(base64.stdout).unwrap();
        // The end of a base64 text depends on the bytes that follow, so only the beginning is compared.
        let base64 = base64.trim_end_matches('=')[..base64.len().min(12)].to_owned();
        [
            text.to_owned(),
            text.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D"),
            base64,
        ]
    };
    let statuses = t.kubectl(&["get", "valet", "--output", "yaml"]);
    let cluster = t
        .world
        .plane
        .kubectl(&["get", "costore", t.name(), "--output", "yaml"])
        .unwrap();
    let events = t.kubectl(&["get", "events", "--output", "yaml"]);
    let metrics = operator.metrics().unwrap();
    for (place, text) in [
        ("log", &log),
        ("status", &statuses),
        ("store", &cluster),
        ("events", &events),
        ("metrics", &metrics),
    ] {
        for marker in [
            id,
            secret,
            &signature,
            &part_signature,
            "X-Amz-Signature",
            &policy,
            &form_signature,
        ]
        .iter()
        .flat_map(|m| encoded(m))
        {
            assert!(!text.contains(&marker), "{place} shows {marker}");
        }
    }
}
