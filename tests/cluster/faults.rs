//! Trouble: a store that is away, an apiserver that goes, objects that nobody can read.

use std::time::Duration;

use serde_json::json;
use valet_harness::{S3Server, eventually};

use crate::world::{SOON, Tenant, condition, says};

/// A store that is away holds write-once uploads up, since nobody can say whether the object is there; it does not
/// keep a key beyond its time, and the verdict waits for the store.
#[test]
fn a_store_that_is_away() {
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
        "the key's time is kept whatever the store does"
    );
    assert_eq!(says(&grant, "Ready"), "False StoreUnreachable");
    let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("last check"), "{message}");

    store.start_again().unwrap();
    t.reason_within("ug/during", "Issued", Duration::from_secs(90));
    let grant = t.reason_within("ug/before", "Completed", Duration::from_secs(90));
    assert_eq!(grant["status"]["object"]["size"], 4);
}

/// One grant that cannot be read does not keep the others from being served. The schema lets none in; a status that
/// somebody else wrote can still be one.
#[test]
fn an_unreadable_grant() {
    let t = Tenant::new("unreadable");
    t.apply(&[t.grant("DownloadGrant", "odd", json!({}))]);
    // A time that is none, in a field whose format Valet's own schema leaves to the writer.
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
        // The schema was strict enough; then the odd one is an ordinary one.
        t.reason("dg/odd", "Issued");
    }
}

/// Endpoints, regions and buckets that are wrong.
#[test]
fn a_store_that_is_set_up_wrongly() {
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
