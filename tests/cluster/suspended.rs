//! Tests of suspended and revoked grants.

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

fn message(grant: &Value, type_: &str) -> String {
    condition(grant, type_).map_or(String::new(), |c| c["message"].as_str().unwrap().to_owned())
}

/// A suspended grant has no Secret and is Current for kstatus, and its message says how long copies of the credential
/// work. Afterwards the grant gets the same credential again.
#[test]
fn suspended_grant_has_no_secret_and_later_the_same_credential() {
    let t = Tenant::new("suspended");
    t.put(&t.key("report"), b"a report");
    let operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "report", json!({})),
        t.grant("UploadGrant", "waiting", json!({"suspend": true})),
    ]);
    t.reason("dg/report", "Issued");
    let waiting = t.reason("ug/waiting", "Suspended");
    assert_eq!(t.kstatus(&waiting), "Current");
    assert_eq!(
        message(&waiting, "Suspended"),
        "spec.suspend is true: no credential is issued"
    );
    assert!(t.get("secret/waiting").is_none());

    let copy = t.mount("report");
    t.patch("dg/report", &json!({"spec": {"suspend": true}}));
    let held = t.reason("dg/report", "Suspended");
    t.gone("report");
    assert_eq!(t.kstatus(&held), "Current");
    assert_eq!(says(&held, "Ready"), "True Suspended");
    assert_eq!(says(&held, "Suspended"), "True Suspended");
    assert_eq!(says(&held, "Active"), "False Suspended");
    assert_eq!(held["status"]["binding"], json!(null));
    let until = format!("copies of the credential work until {}", copy.files["expiry"]);
    assert!(
        message(&held, "Suspended").ends_with(&until),
        "{}",
        message(&held, "Suspended")
    );
    assert_eq!(
        copy.curl(&[]).0,
        200,
        "copies of the URL work until the time in the message"
    );
    assert!(operator.metrics().unwrap().contains(&format!(
        r#"valet_grants{{kind="DownloadGrant",namespace="{}",reason="Suspended"}} 1"#,
        t.name()
    )));

    t.patch("dg/report", &json!({"spec": {"suspend": false}}));
    t.patch("ug/waiting", &json!({"spec": {"suspend": null}}));
    let back = t.reason("dg/report", "Issued");
    assert!(condition(&back, "Suspended").is_none());
    assert_eq!(
        t.mount("report").files,
        copy.files,
        "the same credential with the same expiry"
    );
    let first = t.reason("ug/waiting", "Issued");
    assert_eq!(says(&first, "Active"), "True Issued");
    // There are no events, because the user who suspends a grant knows it.
    assert_eq!(t.kubectl(&["get", "events"]).trim(), "");
}

/// A revoked grant loses its Secret, cannot be issued again, and is deleted like other finished grants.
#[test]
fn revoked_grant_has_no_secret_and_is_not_issued_again() {
    let t = Tenant::new("revoked");
    let operator = t.operator();
    t.apply(&[t.grant(
        "UploadGrant",
        "leaked",
        json!({"ttlSecondsAfterFinished": -1, "constraints": {"overwrite": "Allow"}}),
    )]);
    t.reason("ug/leaked", "Issued");
    let copy = t.mount("leaked");
    let mark = t.mark();
    t.patch("ug/leaked", &json!({"spec": {"revoke": true}}));
    let ended = t.reason("ug/leaked", "Revoked");
    t.gone("leaked");
    assert_eq!(t.kstatus(&ended), "Current");
    assert_eq!(says(&ended, "Revoked"), "True Revoked");
    assert_eq!(says(&ended, "Active"), "False Revoked");
    assert_eq!(says(&ended, "Completed"), "Unknown Revoked");
    assert!(
        ended["status"]["finishedTime"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .is_ok()
    );
    let said = message(&ended, "Revoked");
    for part in [
        "Secret leaked was deleted",
        &format!("copies of the URL work until {}", copy.files["expiry"]),
        "disable the access key that signed",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(
        !said.contains(t.world.s3.access_key()),
        "the message names no access key ID: {said}"
    );
    let file = t.file("late", b"late");
    assert_eq!(
        copy.upload(&file).0,
        200,
        "copies of the URL work until the time in the message"
    );

    let refused = t.world.plane.kubectl(&[
        "patch",
        "ug/leaked",
        "--namespace",
        t.name(),
        "--type=merge",
        "--patch",
        r#"{"spec":{"revoke":false}}"#,
    ]);
    let refused = refused.expect_err("a revoked grant cannot be restored").to_string();
    assert!(refused.contains("spec.revoke cannot be set back to false"), "{refused}");

    // After the revocation, a change of the spec leads only to a status write.
    let spec = json!({"expirationSeconds": 1234, "suspend": true});
    t.patch("ug/leaked", &json!({"spec": spec}));
    eventually(SOON, "the change to be observed", || {
        let grant = t.get("ug/leaked")?;
        (grant["status"]["observedGeneration"] == grant["metadata"]["generation"]).then_some(())
    });
    t.reason("ug/leaked", "Revoked");
    let writes: Vec<_> = t
        .written(mark)
        .iter()
        .map(|e| format!("{} {}", e.verb(), e.resource()))
        .collect();
    assert_eq!(writes, ["delete secrets", "patch uploadgrants", "patch uploadgrants"]);
    let metrics = operator.metrics().unwrap();
    assert!(
        metrics.contains(r#"valet_grants_finished_total{kind="UploadGrant",reason="Revoked"} 1"#),
        "{metrics}"
    );
    t.patch("ug/leaked", &json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    eventually(SOON, "the finished grant to be deleted", || {
        t.get("ug/leaked").is_none().then_some(())
    });
}

/// If a grant is revoked while no operator runs, the next operator deletes its Secret at the start.
#[test]
fn grant_revoked_while_no_operator_runs_loses_its_secret() {
    let t = Tenant::new("late");
    let operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    t.reason("dg/g", "Issued");
    operator.kill();
    t.patch("dg/g", &json!({"spec": {"revoke": true}}));
    assert!(t.get("secret/g").is_some());
    let _operator = t.operator();
    t.reason("dg/g", "Revoked");
    t.gone("g");
}
