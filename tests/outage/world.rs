//! A control plane and a store for one test.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use valet_harness::{ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, S3Server, Tools, eventually};

pub const SOON: Duration = Duration::from_secs(90);

pub fn grant(name: &str, seconds: u32) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "DownloadGrant", "metadata": {"name": name, "namespace": "default"},
        "spec": {"storeRef": {"name": "own"}, "key": "some/key", "expirationSeconds": seconds},
    })
}

pub fn ready(plane: &ControlPlane, name: &str, reason: &str) {
    eventually(SOON, &format!("{name} to be {reason}"), || {
        let grant = plane.kubectl_json(&["get", "dg", name, "--output=json"]).ok()?;
        let conditions = grant["status"]["conditions"].as_array()?.clone();
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["reason"] == reason)
            .then_some(())
    });
}

pub fn has_secret(plane: &ControlPlane, name: &str) -> bool {
    !plane
        .kubectl(&["get", "secret", name, "--ignore-not-found", "--output=name"])
        .unwrap()
        .trim()
        .is_empty()
}

/// A control plane, and a store to which the ObjectStore `own` in the namespace `default` points.
pub struct World {
    pub plane: ControlPlane,
    _store: S3Server,
}

impl World {
    pub fn new() -> Self {
        let tools = Tools::locate().unwrap();
        let crds = fs::read_to_string(concat!(env!("VALET_ROOT"), "/crds/valet.yaml")).unwrap();
        let options = ControlPlaneOptions {
            manifests: vec![
                crds,
                r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}}"#.into(),
            ],
            ..ControlPlaneOptions::default()
        };
        let plane = ControlPlane::start_with(&tools, options).unwrap();
        let store = S3Server::start(&tools).unwrap();
        store.create_bucket("bucket").unwrap();
        plane
            .apply_all(&[
                json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "default"},
                    "stringData": {"accessKeyID": store.access_key(), "secretAccessKey": store.secret_key()},
                }),
                json!({
                    "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore", "metadata": {"name": "own", "namespace": "default"},
                    "spec": {"s3": {
                        "bucket": "bucket", "region": store.region(), "endpoint": store.endpoint(), "addressingStyle": "Path",
                        "credentials": {"secretRef": {"name": "keys"}},
                    }},
                }),
            ])
            .expect("the objects can be applied");
        Self { plane, _store: store }
    }

    pub fn options(args: &[&str]) -> OperatorOptions {
        OperatorOptions {
            // The tenant's own store runs on this machine.
            args: ["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"]
                .iter()
                .chain(args)
                .map(|a| (*a).to_owned())
                .collect(),
            ..OperatorOptions::default()
        }
    }

    pub fn operator(&self, args: &[&str]) -> Operator {
        self.operator_with(&Self::options(args))
    }

    pub fn operator_with(&self, options: &OperatorOptions) -> Operator {
        Operator::start(Path::new(env!("CARGO_BIN_EXE_valet")), &self.plane, options).unwrap()
    }
}

/// The lines of an operator's log that have this level.
pub fn lines(operator: &Operator, level: &str) -> Vec<String> {
    let text = operator.log_text();
    let of_level = |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"] == level);
    text.lines().filter(of_level).map(str::to_owned).collect()
}
