//! Tests of the control plane: owner references, permissions, the audit log, and restarts.

use std::sync::LazyLock;

use serde_json::{Value, json};
use valet_harness::{ControlPlane, ControlPlaneOptions, eventually, kstatus, process};

use crate::{SOON, TOOLS};

/// A custom kind. The tests check that it behaves like the built-in kinds.
const CRD: &str = r#"{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
  "metadata": {"name": "things.harness.test"},
  "spec": {
    "group": "harness.test", "scope": "Namespaced",
    "names": {"kind": "Thing", "plural": "things", "singular": "thing", "shortNames": ["th"], "categories": ["valet"]},
    "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
      "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]
  }
}"#;

static CLUSTER: LazyLock<ControlPlane> = LazyLock::new(|| {
    let options = ControlPlaneOptions {
        manifests: vec![CRD.into()],
        ..ControlPlaneOptions::default()
    };
    let cluster = ControlPlane::start_with(&TOOLS, options).unwrap();
    println!("control plane started in {:?}", cluster.started_in());
    cluster
});

/// Creates an object of the kind Thing and a Secret that it owns.
fn owner_and_secret(namespace: &str) {
    CLUSTER
        .apply(&json!({"apiVersion": "harness.test/v1", "kind": "Thing", "metadata": {"name": "owner", "namespace": namespace}}).to_string())
        .unwrap();
    let owner = CLUSTER
        .kubectl_json(&["get", "th", "owner", "--namespace", namespace])
        .unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"url": "https://example.com"},
        "metadata": {"name": "owned", "namespace": namespace, "ownerReferences": [{
            "apiVersion": "harness.test/v1", "kind": "Thing", "name": "owner", "controller": true,
            "uid": owner["metadata"]["uid"],
        }]},
    });
    CLUSTER.apply(&secret.to_string()).unwrap();
}

fn secret_exists(namespace: &str) -> bool {
    CLUSTER
        .kubectl(&[
            "get",
            "secret",
            "owned",
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--output",
            "name",
        ])
        .unwrap()
        .contains("owned")
}

#[test]
fn owned_secret_is_deleted_with_its_owner_and_with_its_namespace() {
    let namespace = CLUSTER.namespace("gc").unwrap();
    owner_and_secret(namespace.name());
    assert!(secret_exists(namespace.name()));
    assert!(namespace.dump().contains("kind: Thing"), "{}", namespace.dump());

    CLUSTER
        .kubectl(&["delete", "th", "owner", "--namespace", namespace.name()])
        .unwrap();
    eventually(SOON, "the owned Secret to be deleted", || {
        (!secret_exists(namespace.name())).then_some(())
    });
    CLUSTER
        .kubectl(&["delete", "namespace", namespace.name(), "--timeout=60s"])
        .unwrap();
}

#[test]
fn audit_log_records_the_user_of_each_request() {
    let namespace = CLUSTER.namespace("audit").unwrap();
    let mark = CLUSTER.audit_mark().unwrap();
    let mut command = CLUSTER.kubectl_command(CLUSTER.operator_kubeconfig());
    command.args(["create", "secret", "generic", "a", "--namespace", namespace.name()]);
    process::run_ok(command, &[], SOON).unwrap();
    CLUSTER
        .kubectl(&["get", "secret", "a", "--namespace", namespace.name()])
        .unwrap();
    let lines = eventually(SOON, "both requests in the audit log", || {
        let events = CLUSTER.audit_since(mark).unwrap();
        let mine = events.iter().filter(|event| event.namespace() == namespace.name());
        let lines: Vec<_> = mine
            .filter(|event| event.resource() == "secrets")
            .map(ToString::to_string)
            .collect();
        (lines.len() == 2).then_some(lines)
    });
    let name = namespace.name();
    assert_eq!(
        lines,
        [
            format!("valet-operator create secrets {name}/a 201"),
            format!("valet-test-admin get secrets {name}/a 200"),
        ]
    );
}

#[test]
fn service_account_has_only_the_permissions_of_its_role() {
    let namespace = CLUSTER.namespace("rbac").unwrap();
    let name = namespace.name();
    CLUSTER
        .kubectl(&["create", "serviceaccount", "reader", "--namespace", name])
        .unwrap();
    CLUSTER
        .kubectl(&[
            "create",
            "role",
            "reader",
            "--verb=list",
            "--resource=configmaps",
            "--namespace",
            name,
        ])
        .unwrap();
    let account = format!("--serviceaccount={name}:reader");
    CLUSTER
        .kubectl(&[
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            &account,
            "--namespace",
            name,
        ])
        .unwrap();
    let token = CLUSTER.service_account_token(name, "reader").unwrap();
    let kubeconfig = CLUSTER.kubeconfig_for_token(&token).unwrap();
    let get = |what: &str| {
        let mut command = CLUSTER.kubectl_command(&kubeconfig);
        command.args(["get", what, "--namespace", name]);
        process::run(command, &[], SOON).unwrap()
    };
    eventually(SOON, "the role to take effect", || {
        get("configmaps").status.success().then_some(())
    });
    let refused = get("secrets");
    assert!(refused.stderr.contains("Forbidden"), "{}", refused.stderr);
}

#[test]
fn kubectl_error_contains_the_message_of_the_apiserver() {
    let error = CLUSTER
        .apply("{apiVersion: v1, kind: Secret, metadata: {name: UPPER}}")
        .unwrap_err();
    assert!(error.to_string().contains("lowercase RFC 1123"), "{error}");
}

#[test]
fn apiserver_serves_its_metrics() {
    assert!(CLUSTER.metrics().unwrap().contains("apiserver_request_total"));
}

/// This test has its own control plane, because it would disturb other tests.
#[test]
fn restarted_apiserver_keeps_its_address_and_its_data() {
    let cluster = ControlPlane::start(&TOOLS).unwrap();
    cluster.kubectl(&["create", "namespace", "before"]).unwrap();
    cluster.stop_apiserver();
    let error = cluster.kubectl(&["get", "namespaces"]).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    cluster.start_apiserver().unwrap();
    cluster.kubectl(&["get", "namespace", "before"]).unwrap();

    cluster.pause_apiserver();
    let error = cluster
        .kubectl(&["get", "namespaces", "--request-timeout=1s"])
        .unwrap_err();
    assert!(error.to_string().contains("imeout"), "{error}");
    cluster.resume_apiserver();
    cluster.restart_controller_manager().unwrap();
    let events = cluster.audit().unwrap();
    let made = events
        .iter()
        .filter(|event| event.verb() == "create" && event.name() == "before");
    assert_eq!(made.count(), 1, "the log goes on after a restart");

    let folder = cluster.scratch().path().to_owned();
    assert!(folder.exists());
    drop(cluster);
    // If another test of this process has failed, the folder keeps the logs.
    assert!(!folder.exists() || folder.join("kube-apiserver.log").exists());
}

#[test]
fn kstatus_computes_the_expected_status_from_conditions() {
    let object = |conditions: Value| {
        json!({"apiVersion": "x.test/v1", "kind": "X", "metadata": {"name": "x", "generation": 1},
            "status": {"observedGeneration": 1, "conditions": conditions}})
    };
    for (conditions, expected) in [
        (json!([{"type": "Ready", "status": "True", "reason": "R"}]), "Current"),
        (
            json!([{"type": "Ready", "status": "False", "reason": "R", "message": "wait"}]),
            "InProgress",
        ),
        (
            json!([{"type": "Stalled", "status": "True", "reason": "R", "message": "no"}]),
            "Failed",
        ),
    ] {
        assert_eq!(kstatus(&TOOLS, &object(conditions)).unwrap().0, expected);
    }
}
