//! Tests of conformance checks on MinIO and Garage.

use serde_json::{Value, json};
use valet_harness::{GARAGE_BUCKET, S3Options, S3Server, Software, eventually};

use crate::{
    OnMinio, can,
    world::{SOON, Tenant, condition, says},
};

/// Requests a conformance check and waits for its result.
pub fn checked_by_conformance_check(t: &Tenant, store: Value) -> Value {
    checked_on_request(t, store, "now")
}

pub fn checked_on_request(t: &Tenant, mut store: Value, request: &str) -> Value {
    store["metadata"]["annotations"] = json!({"valetkey.dev/check-requested-at": request});
    t.apply(&[store]);
    t.answered(request)
}

/// With a session for each credential, MinIO enforces every constraint of the credentials.
#[test]
fn conformance_check_on_minio_finds_all_constraints() {
    let on = OnMinio::new("real-keys");
    let t = &on.tenant;
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 900});
    let store = checked_by_conformance_check(t, store);
    assert_eq!(
        says(&store, "ConstraintsEnforced"),
        "True ConstraintsEnforced",
        "{}",
        store["status"]
    );
    let message = condition(&store, "ConstraintsEnforced").unwrap()["message"]
        .as_str()
        .unwrap();
    for promise in [" PostForm/KeyPrefix", " Credentials", " Multipart/WriteOnce"] {
        assert!(message.contains(promise), "{message}");
    }
    let not_probed: Vec<_> = message.split("; not tested: ").skip(1).collect();
    assert_eq!(
        not_probed,
        ["Version, Multipart/ContentType, Multipart/ContentLengthRange"],
        "{message}"
    );
    assert!(can(&store, "Credentials"));
    let left = on.minio.versions(t.name(), "").unwrap();
    assert!(left.is_empty(), "{left:#?}");
}

/// Garage accepts a second upload with a write-once URL. A conformance check finds this, and Valet signs no
/// write-once URL.
#[test]
#[ignore = "needs Garage, which takes long to build; make conformance runs it"]
fn conformance_check_on_garage_finds_no_write_once() {
    let t = Tenant::new("garage");
    let options = S3Options {
        software: Software::Garage,
        ..S3Options::default()
    };
    let garage = S3Server::start_with(&t.world.tools, options).expect("Garage starts");
    eventually(SOON, "the bucket to exist", || {
        garage.head(GARAGE_BUCKET, "").ok().flatten()
    });
    t.apply(&[t.credentials(garage.access_key(), garage.secret_key())]);
    let _operator = t.operator();
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(garage.endpoint());
    store["spec"]["s3"]["bucket"] = json!(GARAGE_BUCKET);
    let store = checked_by_conformance_check(&t, store);
    assert_eq!(
        says(&store, "ConstraintsEnforced"),
        "False ConstraintsNotEnforced",
        "{}",
        store["status"]
    );
    let message = condition(&store, "ConstraintsEnforced").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("does not enforce WriteOnce, Multipart/WriteOnce:"),
        "{message}"
    );
    assert!(!can(&store, "WriteOnce") && can(&store, "ContentType") && can(&store, "PostForm/ContentLengthRange"));
    assert!(can(&store, "PostForm/KeyPrefix"), "{}", store["status"]);
    let left = || {
        garage
            .request("GET", GARAGE_BUCKET, "", &[("list-type", "2")], &[], b"")
            .unwrap()
    };
    let is_empty = || {
        String::from_utf8_lossy(&left().body)
            .contains("<KeyCount>0</KeyCount>")
            .then_some(())
    };
    eventually(SOON, "all objects of the check to be deleted", is_empty);
    t.apply(&[
        t.grant("UploadGrant", "once", json!({})),
        t.grant(
            "UploadGrant",
            "again",
            json!({"constraints": {"overwrite": "Allow", "contentType": "text/plain"}}),
        ),
    ]);
    t.reason("ug/once", "CapabilityMissing");
    t.reason("ug/again", "Issued");
    assert_eq!(t.mount("again").upload(&t.file("body", b"x")).0, 200);
    t.reason("ug/again", "Completed");
}
