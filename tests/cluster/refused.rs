//! Tests of refused grants, and of records that a tenant forges for them: Valet sends no request to the store for
//! such a grant, and the grant still finishes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet_harness::{OddStore, Oddity, Operator, eventually};

use crate::{
    abandoned::begin,
    multipart::open,
    notifications::polls,
    world::{SOON, Tenant, condition},
};

/// Long enough for several reconciles.
const A_WHILE: Duration = Duration::from_secs(5);

/// The object of another tenant. No access rule allows this test's tenant to use it.
const VICTIM: &str = "tenants/victim/salaries.csv";

/// Creates a Secret that looks like the Secret of the grant, with a credential that expired long ago. A finalizer
/// keeps the Secret while it is deleted.
fn plant(t: &Tenant, grant: &str, issued_at: &str) {
    let uid = t.get(&format!("ug/{grant}")).unwrap()["metadata"]["uid"].clone();
    t.apply(&[json!({
        "apiVersion": "v1", "kind": "Secret", "type": "valetkey.dev/grant",
        "metadata": {
            "name": grant, "namespace": t.name(),
            "labels": {"app.kubernetes.io/managed-by": "valet"},
            "finalizers": ["example.com/stay"],
            "annotations": {
                "valetkey.dev/issued-at": issued_at,
                "valetkey.dev/expires-at": "1970-01-03T00:00:00Z",
                "valetkey.dev/grant-uid": uid,
            },
            "ownerReferences": [{
                "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "name": grant, "uid": uid, "controller": true,
            }],
        },
        "stringData": {"url": "https://example.com"},
    })]);
    t.kubectl(&["delete", "secret", grant, "--wait=false"]);
    touch(t, grant);
}

/// Puts a proxy between the operator and the store that records all requests.
fn listen(t: &Tenant) -> OddStore {
    let store = OddStore::before(&t.world.s3, Oddity::None).expect("it starts");
    t.patch(
        &format!("costore/{}", t.name()),
        &json!({"spec": {"s3": {"endpoint": store.endpoint()}}}),
    );
    store
}

/// Checks that no request named the other tenant's object or listed multipart uploads.
fn names_no_victim(store: &OddStore) {
    let requests = store.requests();
    assert!(!requests.is_empty(), "the store itself is probed");
    let named: Vec<_> = requests
        .iter()
        .filter(|line| line.contains("victim") || line.contains("uploads"))
        .collect();
    assert_eq!(named, Vec::<&String>::new());
}

fn touch(t: &Tenant, grant: &str) {
    let now = Timestamp::now().as_millisecond().to_string();
    t.kubectl(&["label", "ug", grant, &format!("touched=at-{now}"), "--overwrite"]);
}

fn remove_finalizers(t: &Tenant, secret: &str) {
    t.patch(&format!("secret/{secret}"), &json!({"metadata": {"finalizers": null}}));
}

fn assert_shows_nothing(t: &Tenant, operator: &Operator, grant: &str) {
    std::thread::sleep(A_WHILE);
    touch(t, grant);
    std::thread::sleep(A_WHILE);
    let grant = t.get(&format!("ug/{grant}")).unwrap();
    assert!(grant["status"]["object"].is_null(), "{grant:#}");
    let completed = condition(&grant, "Completed").map(|c| c["status"].clone());
    assert_ne!(completed, Some(json!("True")), "{grant:#}");
    let text = grant["status"].to_string();
    assert!(
        !text.contains("nothing was uploaded;") && !text.contains("salaries of"),
        "{text}"
    );
    assert_eq!(polls(t, operator), 0.0, "the store received a request");
}

/// A forged Secret or status does not let a tenant learn whether another tenant's object exists, or its size.
#[test]
fn forged_record_of_refused_grant_sends_no_request() {
    let t = Tenant::new("refusedhead");
    t.put(VICTIM, b"name,salary\nalice,100000\nbob,110000\n");
    let store = listen(&t);
    let operator = t.operator();
    for (name, is_named) in [("by-prefix", true), ("by-rule", false)] {
        if !is_named {
            let others = json!([{"namespaces": {"names": ["others"]}, "operations": ["Upload"]}]);
            t.patch(&format!("costore/{}", t.name()), &json!({"spec": {"access": others}}));
        }
        let refused = if is_named {
            "KeyNotAllowed"
        } else {
            "NamespaceNotAllowed"
        };
        for (way, key) in [
            ("secret", VICTIM),
            ("status", VICTIM),
            ("absent", "tenants/victim/none"),
        ] {
            let name = format!("{name}-{way}");
            t.apply(&[t.grant("UploadGrant", &name, json!({"key": key}))]);
            t.reason(&format!("ug/{name}"), refused);
            if way == "status" {
                let long_ago = json!({"status": {"issuedTime": "1970-01-02T00:00:00Z", "expirationTime": "1970-01-03T00:00:00Z"}});
                let patch = long_ago.to_string();
                t.kubectl(&[
                    "patch",
                    "ug",
                    &name,
                    "--subresource=status",
                    "--type=merge",
                    "--patch",
                    &patch,
                ]);
            } else {
                plant(&t, &name, "1970-01-02T00:00:00Z");
            }
            assert_shows_nothing(&t, &operator, &name);
            if way != "status" {
                remove_finalizers(&t, &name);
            }
        }
    }
    names_no_victim(&store);
}

/// A forged Secret and a finalizer do not make Valet abort another client's multipart upload.
#[test]
fn forged_record_of_refused_grant_aborts_no_upload() {
    let t = Tenant::new("refusedabort");
    let store = listen(&t);
    let operator = t.operator();
    let spec = json!({"key": VICTIM, "mode": "Multipart", "constraints": {"contentLength": 3}});
    let mut grant = t.grant("UploadGrant", "spy", spec);
    grant["metadata"]["finalizers"] = json!(["valetkey.dev/multipart"]);
    t.apply(&[grant]);
    t.reason("ug/spy", "KeyNotAllowed");
    let theirs = begin(&t, VICTIM);
    plant(&t, "spy", "2031-01-01T00:00:00Z");
    assert_shows_nothing(&t, &operator, "spy");
    assert_eq!(open(&t, VICTIM), std::slice::from_ref(&theirs));
    // The finalizer does not delay the deletion, and the other client's upload stays.
    t.kubectl(&["delete", "ug/spy", "--timeout=30s"]);
    assert_eq!(open(&t, VICTIM), [theirs]);
    remove_finalizers(&t, "spy");
    names_no_victim(&store);
}

/// Valet aborts its own multipart upload also after a restart and after the access rule was narrowed, because its
/// signed record names the upload. Other uploads stay.
#[test]
fn own_upload_is_aborted_after_restart_and_narrowed_rule() {
    let t = Tenant::new("refusedown");
    let operator = t.operator();
    let parts = json!({"mode": "Multipart", "constraints": {"contentLength": 3}});
    t.apply(&[
        t.grant("UploadGrant", "up", parts.clone()),
        t.grant("UploadGrant", "forged", parts),
    ]);
    t.reason("ug/up", "Issued");
    t.reason("ug/forged", "Issued");
    let theirs = [begin(&t, &t.key("up")), begin(&t, &t.key("forged"))];
    assert_eq!(open(&t, &t.key("up")).len(), 2);
    let own = t.get("ug/forged").unwrap()["status"]["uploadID"]
        .as_str()
        .unwrap()
        .to_owned();
    operator.kill();
    let others = json!([{"namespaces": {"names": ["others"]}, "operations": ["Upload"]}]);
    t.patch(&format!("costore/{}", t.name()), &json!({"spec": {"access": others}}));
    // Both records are changed to name another client's upload. Their signatures are then invalid.
    let patch = json!({"status": {"uploadID": theirs[1]}}).to_string();
    t.kubectl(&[
        "patch",
        "ug",
        "forged",
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ]);
    t.patch(
        "secret/forged",
        &json!({"metadata": {"annotations": {"valetkey.dev/upload-id": theirs[1]}}}),
    );

    let _next = t.operator();
    for grant in ["ug/up", "ug/forged"] {
        t.reason(grant, "NamespaceNotAllowed");
        t.kubectl(&["delete", grant, "--timeout=30s"]);
    }
    assert_eq!(open(&t, &t.key("up")), [theirs[0].clone()]);
    let mut left = open(&t, &t.key("forged"));
    left.sort_unstable();
    let mut expected = vec![theirs[1].clone(), own];
    expected.sort_unstable();
    assert_eq!(left, expected, "Valet no longer knows which upload is its own");
}

/// A grant of tests/cases, changed for this tenant.
fn case(t: &Tenant, text: &str) -> Value {
    let mut grant: Value = serde_yaml::from_str(text).expect("the case is YAML");
    grant["metadata"]["namespace"] = t.name().into();
    grant["spec"]["storeRef"]["name"] = t.name().into();
    let key = t.key(grant["spec"]["key"].as_str().expect("a key"));
    grant["spec"]["key"] = key.into();
    grant
}

/// A refused grant finishes at its `deadlineTime` and is deleted after `ttlSecondsAfterFinished`.
#[test]
fn refused_grant_is_finished_at_its_deadline_and_deleted() {
    let t = Tenant::new("refusedends");
    let _operator = t.operator();
    let mut grant = case(&t, include_str!("../cases/L59-refused-stays.yaml"));
    let deadline = Timestamp::now() + SignedDuration::from_secs(8);
    grant["spec"]["deadlineTime"] = deadline.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    t.apply(&[grant.clone()]);
    t.reason("ug/refused", "CapabilityMissing");
    let finished = t.reason("ug/refused", "ExpiredUnused");
    assert!(!finished["status"]["finishedTime"].is_null(), "{finished:#}");
    eventually(SOON, "the grant to be deleted", || {
        t.get("ug/refused").is_none().then_some(())
    });
    // As in the original case, the deadline is before the creation of the grant.
    grant["metadata"]["name"] = "late".into();
    grant["spec"]["deadlineTime"] = "2026-11-29T15:40:00Z".into();
    t.apply(&[grant]);
    eventually(SOON, "the grant to be deleted", || {
        t.get("ug/late").is_none().then_some(())
    });
}

/// If another finalizer keeps a deleted grant, Valet deletes the grant's Secret and does not create it again.
#[test]
fn deleted_grant_with_foreign_finalizer_keeps_no_secret() {
    let t = Tenant::new("heldgrant");
    let _operator = t.operator();
    t.apply(&[case(&t, include_str!("../cases/L62-grant-with-finalizer.yaml"))]);
    t.reason("dg/held", "Issued");
    t.kubectl(&["delete", "dg/held", "--wait=false"]);
    t.gone("held");
    let held = t.reason("dg/held", "Deleting");
    assert!(held["status"]["binding"].is_null(), "{held:#}");
    std::thread::sleep(A_WHILE);
    assert!(t.get("secret/held").is_none());
    t.patch("dg/held", &json!({"metadata": {"finalizers": null}}));
    eventually(SOON, "the grant to be deleted", || {
        t.get("dg/held").is_none().then_some(())
    });
}

/// If another finalizer keeps a Secret, Valet removes the data before it deletes the Secret. The grant's message
/// names the finalizer.
#[test]
fn secret_with_foreign_finalizer_is_emptied() {
    let t = Tenant::new("heldsecret");
    let _operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "revoked", json!({})),
        t.grant("DownloadGrant", "suspended", json!({})),
        t.grant("DownloadGrant", "expired", json!({"expirationSeconds": 12})),
    ]);
    let stay = json!({"metadata": {"finalizers": ["example.com/stay"]}});
    for name in ["expired", "revoked", "suspended"] {
        t.reason(&format!("dg/{name}"), "Issued");
        t.patch(&format!("secret/{name}"), &stay);
    }
    t.patch("dg/revoked", &json!({"spec": {"revoke": true}}));
    t.patch("dg/suspended", &json!({"spec": {"suspend": true}}));
    for (name, reason) in [
        ("revoked", "Revoked"),
        ("suspended", "Suspended"),
        ("expired", "Expired"),
    ] {
        let says = |text: &str| {
            eventually(SOON, &format!("{name} to say {text}"), || {
                let grant = t.get(&format!("dg/{name}"))?;
                let ready = condition(&grant, "Ready")?;
                (ready["reason"] == reason && ready["message"].as_str()?.contains(text)).then_some(())
            });
        };
        says(
            "is being deleted, but the deletion waits for finalizers: example.com/stay; Valet has removed the data \
              of the Secret",
        );
        let secret = t.get(&format!("secret/{name}")).expect("a finalizer keeps the object");
        assert!(secret["data"].is_null(), "{name} still has data");
        assert_eq!(secret["type"], "valetkey.dev/grant");
        assert!(!secret["metadata"]["deletionTimestamp"].is_null());
        remove_finalizers(&t, name);
        t.gone(name);
    }
}
