//! Tests of an operator that is killed or runs twice: existing credentials stay, and nothing is done twice.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use valet_harness::eventually;

use crate::world::{SOON, Tenant, says};

/// Credentials stay valid while no operator runs. When the operator starts again, it deletes the Secrets of
/// credentials that have expired.
#[test]
fn credentials_stay_valid_while_no_operator_runs() {
    let t = Tenant::new("restart");
    t.put(&t.key("old"), b"old");
    let operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "live", json!({"expirationSeconds": 900})),
        t.grant("DownloadGrant", "ending", json!({"expirationSeconds": 6})),
        t.grant("UploadGrant", "arriving", json!({"expirationSeconds": 900})),
        t.grant("UploadGrant", "unused", json!({"expirationSeconds": 6})),
        t.grant("UploadGrant", "refused", json!({"key": "not/allowed"})),
        t.grant("UploadGrant", "done", json!({"key": t.key("old")})),
        t.grant("DownloadGrant", "waiting", json!({"storeRef": {"name": "nowhere"}})),
    ]);
    for name in ["dg/live", "dg/ending", "ug/arriving", "ug/unused"] {
        t.reason(name, "Issued");
    }
    t.reason("ug/refused", "KeyNotAllowed");
    t.reason("ug/done", "ObjectExists");
    t.reason("dg/waiting", "StoreNotFound");
    let live = t.mount("live");
    let arriving = t.mount("arriving");
    let ends: Timestamp = t.mount("unused").files["expiry"].parse().unwrap();
    operator.kill();

    assert_eq!(arriving.upload(&t.file("body", b"while nobody looks")).0, 200);
    let over = ends + jiff::SignedDuration::from_secs(1);
    std::thread::sleep(Duration::try_from(over.duration_since(Timestamp::now())).unwrap_or_default());
    assert!(
        t.get("secret/ending").is_some(),
        "no operator was running to delete the Secret"
    );

    let mark = t.mark();
    let operator = t.operator();
    t.gone("ending");
    t.gone("unused");
    assert_eq!(says(&t.reason("dg/ending", "Expired"), "Ready"), "True Expired");
    t.reason("ug/unused", "ExpiredUnused");
    t.reason("ug/arriving", "Completed");
    t.gone("arriving");
    assert_eq!(t.mount("live").files, live.files, "a restart renews nothing");
    std::thread::sleep(Duration::from_secs(2));
    let mut writes: Vec<_> = t
        .written(mark)
        .iter()
        .filter(|e| e.resource() != "events")
        .map(|e| format!("{} {} {}", e.verb(), e.resource(), e.name()))
        .collect();
    writes.sort();
    assert_eq!(
        writes,
        [
            "delete secrets arriving",
            "delete secrets ending",
            "delete secrets unused",
            "patch downloadgrants ending",
            "patch uploadgrants arriving",
            "patch uploadgrants unused",
        ],
        "one write for each changed grant, and none for the others"
    );
    let status = operator.terminate().unwrap();
    assert!(status.success(), "the operator exits cleanly after SIGTERM: {status}");
}

/// If a grant is deleted while no operator runs, Kubernetes deletes its Secret through the owner reference. No
/// finalizer delays the deletion.
#[test]
fn grant_deleted_while_no_operator_runs_leaves_no_secret() {
    let t = Tenant::new("gone");
    let operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "g", json!({})),
        t.grant("DownloadGrant", "h", json!({})),
    ]);
    t.reason("ug/g", "Issued");
    t.reason("dg/h", "Issued");
    operator.kill();
    t.kubectl(&["delete", "ug/g", "dg/h", "--timeout=5s"]);
    t.gone("g");
    t.gone("h");
}

/// Two operators at the same time issue each credential once. Correctness does not depend on leader election.
#[test]
fn two_operators_issue_each_credential_once() {
    let t = Tenant::new("two");
    let mark = t.mark();
    let _operators = [t.operator(), t.operator()];
    let grants: Vec<_> = (0..10)
        .map(|n| t.grant("DownloadGrant", &format!("g{n}"), json!({"expirationSeconds": 20})))
        .collect();
    t.apply(&grants);
    for n in 0..10 {
        t.reason(&format!("dg/g{n}"), "Issued");
    }
    for n in 0..10 {
        t.reason_within(&format!("dg/g{n}"), "Expired", 2 * SOON);
    }
    assert_eq!(
        t.secrets_written(mark),
        (10, 0, 10),
        "one Secret for each grant, deleted once"
    );
}

/// If two operators see the same upload, the second one finds the Secret already deleted. It does not create the
/// Secret again.
#[test]
fn two_operators_do_not_recreate_secret_of_completed_upload() {
    let t = Tenant::new("twoseen");
    let mark = t.mark();
    let _operators = [t.operator(), t.operator()];
    let names: Vec<_> = (0..30).map(|n| format!("g{n}")).collect();
    let grants: Vec<_> = names
        .iter()
        .map(|name| t.grant("UploadGrant", name, json!({})))
        .collect();
    t.apply(&grants);
    for name in &names {
        assert_eq!(t.mount(name).upload(&t.file(name, b"x")).0, 200);
    }
    for name in &names {
        t.reason_within(&format!("ug/{name}"), "Completed", Duration::from_secs(75));
    }
    eventually(SOON, "all Secrets to be deleted", || {
        t.kubectl(&["get", "secrets", "--output", "name"])
            .is_empty()
            .then_some(())
    });
    let events = t.world.plane.audit_since(mark).unwrap();
    let mut made: Vec<_> = events
        .iter()
        .filter(|e| e.verb() == "create" && e.resource() == "secrets" && e.namespace() == t.name() && e.code() < 300)
        .map(valet_harness::AuditEvent::name)
        .collect();
    made.sort_unstable();
    let all = made.len();
    made.dedup();
    assert_eq!((made.len(), all), (30, 30), "one Secret for each grant, created once");
}
