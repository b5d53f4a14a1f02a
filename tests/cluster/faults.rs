//! Tests of failures: a store that is not reachable, a store with wrong settings, and a grant that cannot be parsed.

use std::time::Duration;

use serde_json::json;
use valet_harness::{S3Server, eventually};

use crate::world::{SOON, Tenant, condition, says};

/// While a store is not reachable, Valet issues no write-once uploads, because it cannot see whether the object
/// exists. A credential still expires on time. Valet decides the result of the upload when the store is reachable
/// again.
#[test]
fn unreachable_store_gets_no_write_once_credentials() {
    let t = Tenant::new("away");
    let store = S3Server::start(&t.world.tools).unwrap();
    store.create_bucket("bucket").unwrap();
    let mut object = t.store();
    object["spec"]["s3"]["endpoint"] = json!(store.endpoint());
    object["spec"]["s3"]["bucket"] = json!("bucket");
    t.apply(&[t.credentials(store.access_key(), store.secret_key()), object]);
    let _operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "before", json!({"expirationSeconds": 8}))]);
    t.reason("ug/before", "Issued");
    let key = t.mount("before");
    assert_eq!(key.upload(&t.file("f", b"body")).0, 200);
    store.stop();

    t.apply(&[
        t.grant("UploadGrant", "during", json!({})),
        t.grant("DownloadGrant", "read", json!({})),
    ]);
    let grant = t.reason("ug/during", "StoreUnreachable");
    assert_eq!(t.kstatus(&grant), "InProgress");
    assert!(t.get("secret/during").is_none());
    t.reason("dg/read", "Issued");
    let grant = t.reason("ug/before", "StoreUnreachable");
    assert!(
        t.get("secret/before").is_none(),
        "the credential expires on time even if the store is not reachable"
    );
    assert_eq!(says(&grant, "Ready"), "False StoreUnreachable");
    let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("cannot yet check whether the upload has arrived"),
        "{message}"
    );

    store.start_again().unwrap();
    t.reason_within("ug/during", "Issued", Duration::from_secs(90));
    let grant = t.reason_within("ug/before", "Completed", Duration::from_secs(90));
    assert_eq!(grant["status"]["object"]["size"], 4);
}

/// A grant that cannot be parsed does not stop the reconciles of other grants. The schema rejects such a spec, but
/// another client could write such a status.
#[test]
fn grant_with_invalid_status_does_not_stop_other_grants() {
    let t = Tenant::new("unreadable");
    t.apply(&[t.grant("DownloadGrant", "odd", json!({}))]);
    // An invalid time. The field is a string in the status.
    let status = json!({"status": {"issuedTime": "yesterday"}}).to_string();
    let patched = t.world.plane.kubectl(&[
        "patch",
        "dg/odd",
        "--subresource=status",
        "--type=merge",
        "--patch",
        &status,
        "--namespace",
        t.name(),
    ]);
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "good", json!({}))]);
    t.reason("dg/good", "Issued");
    if patched.is_err() {
        // The schema rejected the invalid status, so the grant is an ordinary one.
        t.reason("dg/odd", "Issued");
    }
}

/// A wrong endpoint, region or bucket gets its own reason.
#[test]
fn wrong_store_settings_get_their_own_reasons() {
    let t = Tenant::new("wrong");
    let _operator = t.operator();
    let mut nobody = t.store();
    nobody["metadata"]["name"] = json!(format!("{}-nobody", t.name()));
    nobody["spec"]["s3"]["endpoint"] = json!("http://127.0.0.1:9");
    t.apply(&[
        nobody,
        t.grant(
            "UploadGrant",
            "g",
            json!({"storeRef": {"name": format!("{}-nobody", t.name())}}),
        ),
    ]);
    let grant = t.reason("ug/g", "StoreUnreachable");
    let message = condition(&grant, "Ready").unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains("does not answer") && message.contains("refused"),
        "{message}"
    );
    let event = eventually(SOON, "an event", || {
        t.kubectl(&["get", "events"])
            .lines()
            .find(|l| l.contains("StoreUnreachable"))
            .map(str::to_owned)
    });
    assert!(event.contains("uploadgrant/g"), "{event}");
}
