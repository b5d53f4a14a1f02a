//! Tests of `helm install --wait` with a chart that contains a grant.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use valet_harness::{control_plane::CONTEXT, process};

use crate::world::{Tenant, says};

/// The timeout of `helm --wait`.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Writes a chart whose only template is this object.
fn chart(t: &Tenant, name: &str, object: &Value) -> std::path::PathBuf {
    let chart = json!({"apiVersion": "v2", "name": name, "version": "0.1.0"});
    let file = t.file(name, b"");
    std::fs::remove_file(&file).expect("it was just made");
    std::fs::create_dir_all(file.join("templates")).expect("a folder can be made");
    std::fs::write(file.join("Chart.yaml"), chart.to_string()).expect("a file can be written");
    std::fs::write(file.join("templates/grant.yaml"), object.to_string()).expect("a file can be written");
    file
}

fn install(t: &Tenant, name: &str, object: &Value) -> Command {
    let mut helm = t.world.tools.command("helm");
    helm.env("HOME", t.world.plane.scratch().join("home"))
        .args(["install", name])
        .arg(chart(t, name, object))
        .arg("--kubeconfig")
        .arg(t.world.plane.kubeconfig())
        .args([
            "--kube-context",
            CONTEXT,
            "--namespace",
            t.name(),
            "--wait",
            &format!("--timeout={}s", TIMEOUT.as_secs()),
        ]);
    helm
}

#[test]
fn helm_wait_returns_after_the_credential_is_issued() {
    let t = Tenant::new("helm");
    let _operator = t.operator();
    let mut store = t.store();
    store["metadata"]["name"] = json!(format!("{}-late", t.name()));
    let grant = t.grant(
        "UploadGrant",
        "late",
        json!({"storeRef": {"name": format!("{}-late", t.name())}}),
    );
    let helm = install(&t, "late", &grant);
    std::thread::scope(|scope| {
        let installed = scope.spawn(move || process::run_ok(helm, b"", TIMEOUT));
        t.reason("ug/late", "StoreNotFound");
        std::thread::sleep(Duration::from_secs(3));
        assert!(
            !installed.is_finished(),
            "the grant waits for its store, and Helm for the grant"
        );
        t.apply(&[store]);
        installed.join().expect("no panic").expect("Helm installs it");
    });
    assert!(t.get("secret/late").is_some(), "the Secret exists when Helm returns");
    let listed = t.get("ug/late").expect("it is there");
    assert_eq!(says(&listed, "Ready"), "True Issued");
}

#[test]
fn helm_wait_fails_if_the_grant_is_refused() {
    let t = Tenant::new("helm");
    let _operator = t.operator();
    let grant = t.grant("UploadGrant", "refused", json!({"key": "elsewhere"}));
    // Helm stops at once on a refused grant and does not wait for its timeout.
    let output = process::run(install(&t, "refused", &grant), b"", TIMEOUT / 2).expect("helm does not wait");
    assert!(!output.status.success(), "{}", output.stderr);
    assert!(output.stderr.contains("refused"), "{}", output.stderr);
    assert_eq!(
        says(&t.reason("ug/refused", "KeyNotAllowed"), "Stalled"),
        "True KeyNotAllowed"
    );
}
