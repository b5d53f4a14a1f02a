//! Tests that install, upgrade, uninstall and reinstall the chart with helm, each on a control plane of its own.

use std::time::Duration;

use serde_json::{Value, json};
use valet_harness::{
    ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, S3Server, Tools, control_plane::CONTEXT,
    eventually, operator::crds, process,
};

use crate::{
    helm::{self, CHART, Objects},
    world::{SOON, VALET, says},
};

const HOME: &str = "valet-system";

/// A control plane without Valet. The release's namespace enforces the `restricted` Pod Security Standard.
struct Site {
    plane: ControlPlane,
}

impl Site {
    fn new(manifests: Vec<String>) -> Self {
        let tools = Tools::locate().expect("the tools build");
        let options = ControlPlaneOptions {
            manifests,
            ..ControlPlaneOptions::default()
        };
        let plane = ControlPlane::start_with(&tools, options).expect("the control plane starts");
        for (name, labels) in [
            (
                HOME,
                json!({
                    "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
                }),
            ),
            ("web", json!({})),
        ] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            plane.apply(&namespace.to_string()).expect("a namespace can be made");
        }
        Self { plane }
    }

    /// Runs helm against this control plane and returns its whole output.
    fn helm_run(&self, args: &[&str]) -> process::Output {
        let kubeconfig = self.plane.kubeconfig().to_str().expect("a plain path").to_owned();
        helm::run(
            &[
                args,
                &[
                    "--namespace",
                    HOME,
                    "--kubeconfig",
                    &kubeconfig,
                    "--kube-context",
                    CONTEXT,
                ],
            ]
            .concat(),
        )
    }

    #[track_caller]
    fn helm(&self, args: &[&str]) -> String {
        let output = self.helm_run(args);
        assert!(
            output.status.success(),
            "helm {}: {}{}",
            args.join(" "),
            output.text(),
            output.stderr
        );
        assert!(
            !output.stderr.contains("would violate PodSecurity"),
            "{}",
            output.stderr
        );
        output.text()
    }

    #[track_caller]
    fn kubectl(&self, args: &[&str]) -> String {
        self.plane
            .kubectl(args)
            .unwrap_or_else(|e| panic!("kubectl {}: {e}", args.join(" ")))
    }

    fn get(&self, what: &str, namespace: &str) -> Option<Value> {
        let text = self.kubectl(&[
            "get",
            what,
            "--ignore-not-found",
            "--output",
            "json",
            "--namespace",
            namespace,
        ]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("kubectl prints JSON"))
    }

    /// Runs `kubectl create --dry-run=server` and returns the result for each object, with the warnings.
    fn dry_run(&self, objects: &str) -> process::Output {
        let mut command = self.plane.kubectl_command(self.plane.kubeconfig());
        command.args(["create", "--dry-run=server", "--namespace", HOME, "--filename", "-"]);
        process::run(command, objects.as_bytes(), SOON).expect("kubectl runs")
    }

    fn crd(&self, name: &str) -> Option<Value> {
        self.get(&format!("crd/{name}"), HOME)
    }

    /// Starts the operator as the pod of the Deployment would start it.
    fn operator(&self) -> Operator {
        let token = self
            .plane
            .service_account_token(HOME, "valet")
            .expect("the account has a token");
        let options = OperatorOptions {
            token: Some(token),
            args: vec!["--leader-elect".into()],
            ..OperatorOptions::default()
        };
        Operator::start(&VALET, &self.plane, &options).expect("the operator starts")
    }
}

/// The apiserver accepts every object of the chart, and the pod meets the `restricted` Pod Security Standard.
#[test]
fn apiserver_accepts_all_objects_and_pod_is_restricted() {
    let site = Site::new(Vec::new());
    let values = [
        "networkPolicy.enabled=true",
        "grafanaDashboard.enabled=true",
        "replicaCount=3",
    ];
    let all = helm::objects(&values);
    // The CRDs come first, then all other objects. The apiserver accepts each object without a warning.
    let rest = Objects(
        all.0
            .iter()
            .filter(|o| o["kind"] != "CustomResourceDefinition")
            .cloned()
            .collect(),
    );
    for part in [&all.list(&["CustomResourceDefinition"]), &rest.list(&kinds(&rest))] {
        let output = site.dry_run(part);
        assert!(output.status.success(), "{}", output.stderr);
        assert_eq!(output.stderr, "", "no warning");
    }

    let pod = |change: &dyn Fn(&mut Value)| {
        let template = &all.get("Deployment", "valet")["spec"]["template"];
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
        pod["metadata"]["name"] = json!("probe");
        change(&mut pod);
        site.plane
            .apply(&all.list(&["ServiceAccount"]))
            .expect("the service account can be created");
        let args = ["create", "--namespace", HOME, "--filename", "-", "--output", "json"];
        site.plane.kubectl_in(&pod.to_string(), &args)
    };
    let admitted: Value = serde_json::from_str(&pod(&|_| {}).expect("the pod is admitted")).expect("it is JSON");
    assert_eq!(admitted["spec"]["containers"][0]["image"], all.container()["image"]);
    assert_eq!(admitted["spec"]["serviceAccountName"], "valet");
    let mounts = admitted["spec"]["containers"][0]["volumeMounts"].to_string();
    assert!(
        mounts.contains("/var/run/secrets/kubernetes.io/serviceaccount"),
        "it has its token: {mounts}"
    );
    site.kubectl(&[
        "delete",
        "pod",
        "probe",
        "--namespace",
        HOME,
        "--force",
        "--grace-period=0",
    ]);
    // The namespace enforces the standard: the apiserver rejects the pod without either security context.
    for taken in ["/spec/securityContext", "/spec/containers/0/securityContext"] {
        let refused = pod(&|pod| *pod.pointer_mut(taken).expect("it is there") = json!({})).expect_err(taken);
        assert!(
            refused.to_string().contains("violates PodSecurity \"restricted"),
            "{taken}: {refused}"
        );
    }
}

fn kinds(objects: &Objects) -> Vec<&str> {
    objects.0.iter().filter_map(|o| o["kind"].as_str()).collect()
}

/// An upgrade, an uninstall and a reinstall lose no grant and no grant Secret. The upgrade also updates the CRDs.
#[test]
fn upgrade_uninstall_and_reinstall_lose_no_grant() {
    let site = Site::new(Vec::new());
    let s3 = S3Server::start(site.plane.tools()).expect("the S3 server starts");
    s3.create_bucket("media").expect("a bucket can be made");

    // An older chart has another version, and one of its CRDs has another short name.
    let (_scratch, old) = helm::copy();
    let version = env!("CARGO_PKG_VERSION");
    helm::edit(
        &old.join("Chart.yaml"),
        &format!("version: {version}"),
        "version: 0.0.9",
    );
    helm::edit(&old.join("templates/crds.yaml"), "    - ug\n", "    - oldug\n");
    let old = old.to_str().expect("a plain path");
    site.helm(&["install", "valet", old]);
    let short = |name: &str| site.crd(name).expect("the kind is there")["spec"]["names"]["shortNames"].clone();
    assert_eq!(short("uploadgrants.valetkey.dev"), json!(["oldug"]));
    site.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    // The garbage collector must discover the new CRDs: see ControlPlaneOptions::manifests.
    site.plane.restart_controller_manager().expect("it restarts");

    let operator = site.operator();
    let apply = |objects: Value| site.plane.apply(&objects.to_string()).expect("it can be applied");
    apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "media", "namespace": HOME},
        "stringData": {"AWS_ACCESS_KEY_ID": s3.access_key(), "AWS_SECRET_ACCESS_KEY": s3.secret_key()},
    }));
    apply(json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": "media"},
        "spec": {
            "s3": {
                "bucket": "media", "region": s3.region(), "endpoint": s3.endpoint(), "addressingStyle": "Path",
                "credentials": {"secretRef": {"name": "media"}},
            },
            "access": [{"namespaces": {"names": ["web"]}, "operations": ["Upload", "Download"]}],
        },
    }));
    let grant = |name: &str| {
        apply(json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "metadata": {"name": name, "namespace": "web"},
            "spec": {"storeRef": {"kind": "ClusterObjectStore", "name": "media"}, "key": name},
        }))
    };
    let issued = |name: &str| {
        eventually(SOON, &format!("{name} to be issued"), || {
            let found = site.get(&format!("uploadgrants/{name}"), "web")?;
            (says(&found, "Ready") == "True Issued").then(|| site.get(&format!("secret/{name}"), "web"))?
        })
    };
    grant("before");
    let before = issued("before");

    // An upgrade also updates the CRDs while grants exist.
    site.helm(&["upgrade", "valet", CHART]);
    assert_eq!(short("uploadgrants.valetkey.dev"), json!(["ug"]));
    let listed: Value = serde_json::from_str(&site.helm(&["list", "--output", "json"])).expect("it is JSON");
    assert_eq!(listed[0]["chart"], format!("valet-{version}"));
    assert_eq!(issued("before"), before, "the credential is the same");
    grant("between");
    issued("between");
    // Roll back to the old release, then forward again.
    site.helm(&["rollback", "valet", "1"]);
    assert_eq!(short("uploadgrants.valetkey.dev"), json!(["oldug"]));
    site.helm(&["rollback", "valet", "2"]);
    assert_eq!(short("uploadgrants.valetkey.dev"), json!(["ug"]));
    assert_eq!(issued("before"), before, "the credential is the same");

    // A namespace can have one release only, because two releases would share the Lease.
    let second = site.helm_run(&["install", "valet-two", CHART, "--set", "crds.enabled=false"]);
    assert!(
        !second.status.success() && second.stderr.contains("release valet of this chart"),
        "{}",
        second.stderr
    );

    // An uninstall deletes the operator and its rights. Grants and grant Secrets stay.
    assert!(operator.terminate().expect("it stops").success());
    site.helm(&["uninstall", "valet"]);
    for gone in [
        "deployment/valet",
        "serviceaccount/valet",
        "role/valet-operator",
        "poddisruptionbudget/valet",
    ] {
        assert!(site.get(gone, HOME).is_none(), "{gone}");
    }
    for gone in [
        "clusterrole/valet",
        "clusterrolebinding/valet",
        "validatingadmissionpolicy/valet-secrets",
        "validatingadmissionpolicy/valet-grants",
    ] {
        assert!(site.get(gone, HOME).is_none(), "{gone}");
    }
    assert!(
        site.get("lease/valet", HOME).is_some(),
        "the Lease may stay after the uninstall"
    );
    assert_eq!(site.get("secret/before", "web"), Some(before.clone()));
    grant("meanwhile");

    // After a reinstall the operator continues with the existing grants.
    site.helm(&["install", "valet", CHART]);
    let operator = site.operator();
    issued("meanwhile");
    assert_eq!(issued("before"), before, "the credential is the same");
    operator.terminate().expect("it stops");

    // With `crds.keep=false` an uninstall also deletes the CRDs and all grants.
    site.helm(&["upgrade", "valet", CHART, "--set", "crds.keep=false"]);
    site.helm(&["uninstall", "valet"]);
    eventually(
        Duration::from_secs(60),
        "the CRDs and the grant Secrets to be deleted",
        || {
            (site.crd("uploadgrants.valetkey.dev").is_none() && site.get("secret/before", "web").is_none())
                .then_some(())
        },
    );
}

/// With `--take-ownership` helm takes over CRDs that a user applied by hand.
#[test]
fn helm_takes_over_crds_that_were_applied_by_hand() {
    let site = Site::new(vec![crds(&VALET).expect("valet crds runs")]);
    let refused = site.helm_run(&["install", "valet", CHART]);
    assert!(
        !refused.status.success() && refused.stderr.contains("invalid ownership metadata"),
        "{}",
        refused.stderr
    );
    site.helm(&["install", "valet", CHART, "--take-ownership"]);
    let crd = site.crd("uploadgrants.valetkey.dev").expect("it is there");
    assert_eq!(crd["metadata"]["annotations"]["meta.helm.sh/release-name"], "valet");
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
}
