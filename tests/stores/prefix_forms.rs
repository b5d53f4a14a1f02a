//! Tests of POST forms for a prefix, on a store that enforces the prefix.

use std::time::Duration;

use serde_json::json;

use crate::{
    OnMinio, can,
    conformance::{checked_by_conformance_check, checked_on_request},
    world::{condition, says},
};

/// A POST form for a prefix uploads any number of objects below the prefix, and none elsewhere, however the key is
/// spelled. The grant does not wait for an upload, and it ends without a failure.
#[test]
fn post_form_for_prefix_accepts_only_keys_below_it() {
    let on = OnMinio::new("below");
    let t = &on.tenant;
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    let spec = json!({
        "mode": "PostForm", "key": t.key("inbox/"), "expirationSeconds": 20, "ttlSecondsAfterFinished": 3600,
        "constraints": {"contentType": "text/plain", "contentLengthRange": {"min": 1, "max": 5}, "overwrite": "Allow"},
    });
    // No conformance check has run yet, so the grant is refused.
    t.apply(&[store.clone(), t.grant("UploadGrant", "inbox", spec.clone())]);
    t.reason("ug/inbox", "CapabilityMissing");
    let checked_store = checked_by_conformance_check(t, store);
    assert!(can(&checked_store, "PostForm/KeyPrefix"), "{}", checked_store["status"]);
    let grant = t.reason("ug/inbox", "Issued");
    assert_eq!(says(&grant, "Completed"), "Unknown NotObservable");

    let key = t.mount("inbox");
    let stored = |name: &str| on.minio.get(t.name(), &t.key(name)).unwrap();
    let post = |named: &str, bytes: &[u8]| {
        let file = t.file("upload", bytes);
        key.curl(&["--form", &format!("file=@{}{named}", file.display())]).0
    };
    assert_eq!(post("", b"12345"), 204);
    assert_eq!(
        stored("inbox/upload").as_deref(),
        Some(&b"12345"[..]),
        "the object key has the name of the file"
    );
    assert_eq!(post(";filename=a b+\u{fc}.txt", b"1"), 204);
    assert_eq!(stored("inbox/a b+\u{fc}.txt").as_deref(), Some(&b"1"[..]));
    assert_eq!(
        post(";filename=../../out.txt", b"1"),
        204,
        "the object key has the last part of the path"
    );
    assert_eq!(stored("inbox/out.txt").as_deref(), Some(&b"1"[..]));
    assert_eq!(post("", b"123456"), 400, "one byte more than the maximum");

    // A page with a script can also choose the object key itself.
    let config = key.files["curl.cfg"].clone();
    let as_key = |name: &str, of: &str, to: &str| {
        let config = config.replace(&t.key("inbox/${filename}"), name).replace(of, to);
        std::fs::write(key.folder.join("curl.cfg"), config).unwrap();
        post("", b"1234")
    };
    assert_eq!(as_key(&t.key("inbox/a/b"), "", ""), 204);
    assert_eq!(stored("inbox/a/b").as_deref(), Some(&b"1234"[..]));
    assert_eq!(as_key(&t.key("inbox/c"), "=text/plain", "=text/html"), 403);
    let encoded = t.key("inbox/x").replace('/', "%2F");
    for name in [
        t.key("inboxes/x"),
        t.key("inbox"),
        t.key("Inbox/x"),
        t.key("inbox/../outbox/x"),
        t.key("inbox/./x"),
        t.key("inbox//x"),
        format!("/{}", t.key("inbox/x")),
        encoded,
        "x".to_owned(),
        "${filename}".to_owned(),
    ] {
        let status = as_key(&name, "", "");
        assert!((400..500).contains(&status), "{name}: {status}");
    }
    let all = on.minio.versions(t.name(), "tenants/").unwrap();
    let mut all: Vec<_> = all
        .iter()
        .map(|object| object.key.strip_prefix(&t.key("")).unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(
        all,
        ["inbox/a b+\u{fc}.txt", "inbox/a/b", "inbox/out.txt", "inbox/upload"]
    );

    let over = t.reason_within("ug/inbox", "Expired", Duration::from_secs(40));
    assert_eq!(says(&over, "Completed"), "Unknown NotObservable");
    assert_eq!(t.kstatus(&over), "Current");
    t.gone("inbox");
    assert_eq!(as_key(&t.key("inbox/late"), "", ""), 403);

    // A form that a session signs also reaches only keys below the prefix.
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 900});
    let checked_store = checked_on_request(t, store, "with sessions");
    assert!(can(&checked_store, "PostForm/KeyPrefix"), "{}", checked_store["status"]);
    t.apply(&[t.grant("UploadGrant", "scoped", spec)]);
    let key = t.mount("scoped");
    assert!(key.files["fields.json"].contains("x-amz-security-token"));
    assert_eq!(
        key.curl(&["--form", &format!("file=@{}", t.file("scoped", b"12").display())])
            .0,
        204
    );
    assert_eq!(stored("inbox/scoped").as_deref(), Some(&b"12"[..]));
}

/// An operator that starts while the store is unreachable has no result of a conformance check. Issued credentials
/// stay, and new grants wait for the check.
#[test]
fn new_form_for_prefix_waits_for_a_check_of_unreachable_store() {
    let OnMinio {
        tenant: t,
        minio,
        operator,
    } = OnMinio::new("belowaway");
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(minio.endpoint());
    checked_by_conformance_check(&t, store);
    let grant = |name: &str| {
        let spec = json!({"mode": "PostForm", "key": t.key("inbox/"), "constraints": {"overwrite": "Allow"}});
        t.grant("UploadGrant", name, spec)
    };
    t.apply(&[grant("first")]);
    t.reason("ug/first", "Issued");
    let secret = t.get("secret/first").unwrap();
    drop(operator);
    minio.stop();

    let _operator = t.operator();
    t.apply(&[grant("later"), t.grant("DownloadGrant", "down", json!({}))]);
    let waits = t.reason("ug/later", "StoreUnreachable");
    let message = condition(&waits, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("Valet must run a conformance check before signing credentials"),
        "{message}"
    );
    t.reason("dg/down", "StoreUnreachable");
    assert_eq!(says(&t.get("ug/first").unwrap(), "Ready"), "True Issued");
    minio.start_again().unwrap();
    t.reason_within("ug/later", "Issued", Duration::from_secs(70));
    t.reason_within("dg/down", "Issued", Duration::from_secs(70));
    assert_eq!(says(&t.get("ug/first").unwrap(), "Ready"), "True Issued");
    assert_eq!(t.get("secret/first").unwrap(), secret, "the credential stays the same");
}
