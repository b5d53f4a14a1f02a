//! etcd is restored from a backup while an operator runs, and the revision is not raised.

use std::time::Duration;

use serde_json::json;
use valet_harness::{OperatorOptions, eventually};

use crate::world::{SOON, World, grant, has_secret, ready};

/// The operator reads the cluster's version every 15 s and again 2 s later. The remaining time allows for a busy
/// machine.
const NOTICED: Duration = Duration::from_secs(120);

#[test]
fn operator_restarts_itself_after_an_etcd_restore() {
    let world = World::new();
    let plane = &world.plane;
    let operator = world.operator(&[]);
    // Two operators for the same namespace would overwrite each other's Secrets.
    let leader = world.operator_with(&OperatorOptions {
        namespace: Some("other".into()),
        ..World::options(&["--leader-elect", "--operator-namespace=default"])
    });
    plane
        .apply_all(&[grant("stays", 3600), grant("revoked", 3600)])
        .unwrap();
    ready(plane, "stays", "Issued");
    ready(plane, "revoked", "Issued");
    let backup = plane.back_up().unwrap();
    // The kinds in the command of docs/backup-and-restore.md.
    let kinds = "clusterobjectstores.valetkey.dev,objectstores.valetkey.dev,uploadgrants.valetkey.dev,downloadgrants.valetkey.dev";
    let exported = plane.kubectl(&["get", kinds, "-A", "-o", "yaml"]).unwrap();
    assert!(
        exported.contains("name: stays") && exported.contains("name: own"),
        "{exported}"
    );
    let label = "app.kubernetes.io/managed-by=valet";
    let secrets = plane
        .kubectl(&["get", "secrets", "--selector", label, "--output=name"])
        .unwrap();
    assert_eq!(secrets, "secret/revoked\nsecret/stays\n");

    plane
        .kubectl(&[
            "patch",
            "dg/revoked",
            "--type=merge",
            "--patch",
            &json!({"spec": {"revoke": true}}).to_string(),
        ])
        .unwrap();
    ready(plane, "revoked", "Revoked");
    plane.apply(&grant("later", 3600).to_string()).unwrap();
    ready(plane, "later", "Issued");
    // After this time each operator has read the cluster's version.
    std::thread::sleep(Duration::from_secs(20));
    assert!(operator.process().is_running() && leader.process().is_running());

    plane.restore(&backup).unwrap();
    for operator in [&operator, &leader] {
        let status = operator.process().wait(NOTICED);
        let log = operator.log_text();
        let status = status.unwrap_or_else(|| panic!("the operator did not detect the restore: {log}"));
        assert_eq!(status.code(), Some(1), "{log}");
        // On a slow machine, the leader can lose its Lease before it reads the version.
        assert!(
            log.contains("was reset to an earlier state") || log.contains("has lost the Lease"),
            "{log}"
        );
    }

    // Restarts the operator, as Kubernetes would.
    let again = world.operator(&[]);
    ready(plane, "stays", "Issued");
    assert!(has_secret(plane, "stays"));
    // An operator that has not noticed the restore yet may delete this Secret once more; the next one makes it again.
    eventually(
        SOON,
        "the grant that was revoked after the backup to be live again, as docs/backup-and-restore.md describes",
        || has_secret(plane, "revoked").then_some(()),
    );
    let gone = plane.kubectl(&["get", "dg/later", "secret/later", "--ignore-not-found", "--output=name"]);
    assert_eq!(gone.unwrap().trim(), "");
    plane.apply(&grant("next", 600).to_string()).unwrap();
    ready(plane, "next", "Issued");
    // The new operator must not take the restored state for another restore.
    std::thread::sleep(Duration::from_secs(20));
    assert!(again.process().is_running(), "{}", again.log_text());
    eventually(SOON, "the operator to be ready", || {
        (again.http_get("/readyz").ok()?.0 == 200).then_some(())
    });
}
