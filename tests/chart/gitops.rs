//! Tests of the warning that a user receives for a grant in Git that Valet would delete and the GitOps tool would
//! create again.

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::{
    account::Account,
    world::{SOON, Tenant, merge},
};

/// Runs `kubectl apply` and returns its warnings.
fn apply(t: &Tenant, object: &Value) -> String {
    let mut command = t.world.plane.kubectl_command(t.world.plane.kubeconfig());
    command.args(["apply", "--filename", "-"]);
    let output =
        process::run_ok(command, object.to_string().as_bytes(), SOON).expect("the object is accepted with a warning");
    output.stderr
}

#[test]
fn gitops_grant_that_would_be_recreated_forever_gets_a_warning() {
    let t = Tenant::new("gitops");
    let account = Account::with_advice(&t, &[&format!("scopedNamespace={}", t.name())]);
    let mut count = 0;
    let mut said = |kind: &str, meta: Value, spec: Value| {
        count += 1;
        let mut grant = t.grant(kind, &format!("g{count}"), spec);
        merge(&mut grant["metadata"], meta);
        apply(&t, &grant)
    };
    let argo = json!({"annotations": {"argocd.argoproj.io/tracking-id": "x"}});
    let collected = json!({"ttlSecondsAfterFinished": 60});
    eventually(SOON, "the admission policy to take effect", || {
        said("UploadGrant", argo.clone(), collected.clone())
            .contains("Warning")
            .then_some(())
    });
    // The operator recognizes each of these GitOps labels and annotations.
    for meta in [
        argo.clone(),
        json!({"labels": {"argocd.argoproj.io/instance": "x"}}),
        json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "x"}}),
        json!({"labels": {"helm.toolkit.fluxcd.io/name": "x"}}),
        json!({"labels": {"app.kubernetes.io/instance": "x"}}),
    ] {
        for kind in ["UploadGrant", "DownloadGrant"] {
            let said = said(kind, meta.clone(), collected.clone());
            assert!(
                said.contains("Warning") && said.contains(account.name().as_str()),
                "{meta} {said}"
            );
            assert!(
                said.contains("delete this grant 60 s after it has finished"),
                "{meta} {said}"
            );
        }
    }
    assert!(
        said("UploadGrant", argo.clone(), json!({"ttlSecondsAfterFinished": 0}))
            .contains("delete this grant 0 s after")
    );
    // No warning appears if the grant has no GitOps metadata, or if Valet does not delete it.
    for (meta, spec) in [
        (json!({}), collected.clone()),
        (
            json!({"labels": {"app": "x"}, "annotations": {"note": "argocd"}}),
            collected,
        ),
        (argo.clone(), json!({})),
        (argo, json!({"ttlSecondsAfterFinished": -1})),
    ] {
        let said = said("DownloadGrant", meta.clone(), spec.clone());
        assert_eq!(said, "", "{meta} {spec}");
    }
    // With `scopedNamespace` this release warns about no grant in other namespaces.
    let other = Tenant::new("elsewhere");
    let mut grant = other.grant("UploadGrant", "g", json!({"ttlSecondsAfterFinished": 60}));
    grant["metadata"]["labels"] = json!({"argocd.argoproj.io/instance": "x"});
    assert_eq!(apply(&other, &grant), "");
    // The test uses `kubectl create`, because `kubectl apply` would drop the null value.
    let mut kept = t.grant("DownloadGrant", "kept", json!({"ttlSecondsAfterFinished": null}));
    kept["metadata"]["labels"] = json!({"argocd.argoproj.io/instance": "x"});
    let mut command = t.world.plane.kubectl_command(t.world.plane.kubeconfig());
    command.args(["create", "--filename", "-"]);
    let output = process::run_ok(command, kept.to_string().as_bytes(), SOON).expect("null is allowed");
    assert_eq!(output.stderr, "");
}
