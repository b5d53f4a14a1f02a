//! Tests of multipart uploads that do not finish: which ones Valet aborts in the store, and which ones belong to
//! another client and stay.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    multipart::{A_POLL, PART, bytes, in_parts, is_released, open, parts, send},
    world::{Tenant, condition},
};

/// Initiates a multipart upload directly in the store, as another client would.
pub fn begin(t: &Tenant, key: &str) -> String {
    let answer = t
        .world
        .s3
        .request("POST", t.name(), key, &[("uploads", "")], &[], &[])
        .unwrap()
        .ok()
        .unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    text.split("<UploadId>")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap()
        .to_owned()
}

/// A short last part. For a long part, the server can close the connection before it has read the body, and the
/// client can lose the 404 response.
const LAST: &[u8] = b"the last part";

/// A grant that expires, or is deleted or revoked, before its object is complete leaves no multipart upload in the
/// store.
#[test]
fn unfinished_multipart_upload_is_aborted() {
    let t = Tenant::new("partsleft");
    let _operator = t.operator();
    let size = json!({"contentLength": 2 * PART});
    let of = |name: &str, spec: Value| {
        let mut all = json!({"constraints": size});
        crate::world::merge(&mut all, spec);
        in_parts(&t, name, all)
    };
    t.apply(&[
        of("expires", json!({"expirationSeconds": 15})),
        of("deleted", json!({})),
        of("revoked", json!({"constraints": {"contentLength": PART + LAST.len()}})),
        of("suspended", json!({})),
    ]);
    for name in ["expires", "deleted", "revoked", "suspended"] {
        let mounted = t.mount(name);
        assert_eq!(send(&t, &parts(&mounted)[0], &bytes(PART)), 200);
    }
    let uploads: BTreeMap<_, _> = ["expires", "deleted", "revoked", "suspended"]
        .map(|name| (name, t.mount(name)))
        .into();
    t.kubectl(&["delete", "ug/deleted", "--timeout=30s"]);
    assert_eq!(open(&t, &t.key("deleted")), Vec::<String>::new());
    t.patch("ug/revoked", &json!({"spec": {"revoke": true}}));
    t.reason("ug/revoked", "Revoked");
    is_released(&t, "revoked");
    assert_eq!(open(&t, &t.key("revoked")), Vec::<String>::new());
    assert_eq!(
        send(&t, &parts(&uploads["revoked"])[1], LAST),
        404,
        "a copy of a URL does nothing"
    );
    // While the grant is suspended, the multipart upload stays. It continues with the same URLs afterwards.
    t.patch("ug/suspended", &json!({"spec": {"suspend": true}}));
    t.reason("ug/suspended", "Suspended");
    assert_eq!(open(&t, &t.key("suspended")).len(), 1);
    t.patch("ug/suspended", &json!({"spec": {"suspend": false}}));
    t.reason("ug/suspended", "Issued");
    let again = t.mount("suspended");
    assert_eq!(parts(&again), parts(&uploads["suspended"]), "the URLs are the same");
    assert_eq!(send(&t, &parts(&again)[1], &bytes(PART)), 200);
    t.reason_within("ug/suspended", "Completed", A_POLL);

    let expired = t.reason("ug/expires", "ExpiredUnused");
    let message = condition(&expired, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("uploaded parts: 1; part URLs of the grant: 2"),
        "{message}"
    );
    is_released(&t, "expires");
    assert_eq!(open(&t, ""), Vec::<String>::new());
    assert_eq!(t.stored(&t.key("expires")), None);
}

/// Other clients' multipart uploads of the same object key stay. An upload without parts, as a crash of the operator
/// leaves it, is aborted.
#[test]
fn multipart_uploads_of_other_clients_are_not_aborted() {
    let t = Tenant::new("partsstray");
    let key = t.key("g");
    let old = begin(&t, &key);
    std::thread::sleep(Duration::from_secs(1));
    let _operator = t.operator();
    t.apply(&[in_parts(&t, "g", json!({"constraints": {"contentLength": 3}}))]);
    let mounted = t.mount("g");
    let (stray, theirs) = (begin(&t, &key), begin(&t, &key));
    let query = [("partNumber", "1"), ("uploadId", &theirs)];
    t.world
        .s3
        .request("PUT", t.name(), &key, &query, &[], b"theirs")
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(open(&t, &key).len(), 4);
    assert_eq!(send(&t, &parts(&mounted)[0], b"abc"), 200);
    t.reason_within("ug/g", "Completed", A_POLL);
    is_released(&t, "g");
    let left = open(&t, &key);
    assert!(left.contains(&theirs), "the upload of another client was aborted");
    assert!(!left.contains(&stray));
    // The upload `old` was initiated within one minute before the grant, the tolerance for clock differences. Valet
    // may take it for its own.
    assert!(left.len() <= 2, "{left:?} {old}");
}

/// When the store and its credentials are deleted before a grant, Valet still aborts the multipart upload and the
/// deletion does not hang. An operator that was started later, and never saw the store, reports the upload that it
/// leaves.
#[test]
fn multipart_upload_is_aborted_after_store_is_deleted() {
    let t = Tenant::new("partsgone");
    let operator = t.operator_with(&["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"]);
    let mut store = t.store();
    let access = json!([{"operations": ["Upload"]}]);
    store["kind"] = "ObjectStore".into();
    store["metadata"]["namespace"] = t.name().into();
    store["spec"]["access"] = access;
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = t.name().into();
    t.apply(&[credentials, store]);
    let of = |name: &str| {
        let mut grant = in_parts(&t, name, json!({"constraints": {"contentLength": 2 * PART}}));
        grant["spec"]["storeRef"]["kind"] = "ObjectStore".into();
        grant
    };
    t.apply(&[of("seen"), of("unseen")]);
    for name in ["seen", "unseen"] {
        let mounted = t.mount(name);
        assert_eq!(send(&t, &parts(&mounted)[0], &bytes(PART)), 200);
        t.reason(&format!("ug/{name}"), "Issued");
    }
    t.kubectl(&["delete", "ostore", t.name()]);
    t.kubectl(&["delete", "secret", t.name()]);
    t.reason("ug/seen", "StoreNotFound");
    t.kubectl(&["delete", "ug/seen", "--timeout=30s"]);
    assert_eq!(open(&t, &t.key("seen")), Vec::<String>::new());

    drop(operator);
    let operator = t.operator();
    t.kubectl(&["delete", "ug/unseen", "--timeout=30s"]);
    assert_eq!(open(&t, &t.key("unseen")).len(), 1);
    let events = t.kubectl(&["get", "events", "--output", "json"]);
    assert!(
        events.contains("\"PartsLeft\"") && events.contains("the store was deleted, or cannot be used"),
        "{events}"
    );
    assert!(operator.log_text().contains("could not be aborted"));
    assert!(
        operator
            .metrics()
            .unwrap()
            .contains("valet_multipart_uploads_total{outcome=\"abandoned\"} 1")
    );
}
