//! The servers, the operators and what tenants ask for.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use valet_harness::{
    ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, Result, S3Server, Tools,
    operator::find_valet,
    process::{clean, run_ok},
};

/// The tenants' namespace, and the bucket and store of that name.
pub const NAMESPACE: &str = "faults";
/// A Secret that is nobody's business here.
pub const PRECIOUS: &str = "precious";
/// Seconds of a key that runs out before the end of the run.
pub const SHORT: u64 = 20;
/// Seconds of a key that outlives it.
const LONG: u64 = 7000;

/// See the module.
pub struct Scene {
    // Dropped in this order: clients before servers.
    /// Those that work at present.
    pub operators: Vec<Operator>,
    /// Everything that operators which are gone have logged.
    pub logs: Vec<PathBuf>,
    /// Kubernetes.
    pub plane: ControlPlane,
    /// The object store.
    pub store: S3Server,
    valet: PathBuf,
}

/// What was asked for in one round: names of grants, each with a Secret of that name.
pub struct Asked {
    /// Uploads, to be made as soon as their keys are there.
    pub uploads: Vec<String>,
    /// Downloads that are to live on.
    pub live: Vec<String>,
    /// Downloads that run out.
    pub short: Vec<String>,
}

impl Asked {
    /// All of them, as kubectl names grants.
    pub fn grants(&self) -> Vec<String> {
        let of = |kind: &'static str, names: &[String]| {
            names.iter().map(move |n| format!("{kind}/{n}")).collect::<Vec<_>>()
        };
        [of("ug", &self.uploads), of("dg", &self.live), of("dg", &self.short)].concat()
    }
}

impl Scene {
    /// Starts everything.
    pub fn set() -> Result<Self> {
        let valet = find_valet()?;
        let tools = Tools::locate()?;
        let store = S3Server::start(&tools)?;
        store.create_bucket(NAMESPACE)?;
        let mut crds = clean(Command::new(&valet));
        crds.arg("crds");
        let crds = run_ok(crds, &[], Duration::from_secs(30))?.text();
        let plane = ControlPlane::start_with(
            &tools,
            ControlPlaneOptions {
                manifests: vec![crds, setting(&store).to_string()],
                ..ControlPlaneOptions::default()
            },
        )?;
        let mut scene = Self {
            operators: Vec::new(),
            logs: Vec::new(),
            plane,
            store,
            valet,
        };
        scene.complete()?;
        Ok(scene)
    }

    /// Starts operators until there are two again.
    pub fn complete(&mut self) -> Result<()> {
        while self.operators.len() < 2 {
            // A sweep sees what no watch tells. In production it is ten minutes.
            let options = OperatorOptions {
                namespace: Some(NAMESPACE.into()),
                args: vec!["--sweep-seconds=10".into()],
                ..OperatorOptions::default()
            };
            let operator = Operator::start(&self.valet, &self.plane, &options)?;
            self.logs.push(operator.log());
            self.operators.push(operator);
        }
        Ok(())
    }

    /// Tenants apply six grants at once.
    pub fn ask(&self, round: &str) -> Result<Asked> {
        let names = |what: &str, n: usize| (0..n).map(|n| format!("{round}-{what}-{n}")).collect::<Vec<_>>();
        let asked = Asked {
            uploads: names("up", 3),
            live: names("live", 2),
            short: names("short", 1),
        };
        let mut items = Vec::new();
        items.extend(asked.uploads.iter().map(|name| grant("UploadGrant", name, LONG)));
        items.extend(asked.live.iter().map(|name| grant("DownloadGrant", name, LONG)));
        items.extend(asked.short.iter().map(|name| grant("DownloadGrant", name, SHORT)));
        self.plane
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        Ok(asked)
    }

    /// kubectl in the tenants' namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.plane.kubectl(&[args, &["--namespace", NAMESPACE]].concat())
    }

    /// All objects of a kind in the tenants' namespace.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list = self.plane.kubectl_json(&["get", kind, "--namespace", NAMESPACE])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

fn grant(kind: &str, name: &str, seconds: u64) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "storeRef": {"kind": "ClusterObjectStore", "name": NAMESPACE}, "key": format!("tenants/{name}"),
            "expirationSeconds": seconds,
        },
    })
}

fn setting(store: &S3Server) -> Value {
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let items = [
        namespace("valet-system"),
        namespace(NAMESPACE),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": PRECIOUS, "namespace": NAMESPACE},
            "stringData": {"password": "tell-nobody"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAMESPACE, "namespace": "valet-system"},
            "stringData": {"AWS_ACCESS_KEY_ID": store.access_key(), "AWS_SECRET_ACCESS_KEY": store.secret_key()},
        }),
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": NAMESPACE},
            "spec": {
                "s3": {
                    "bucket": NAMESPACE, "region": store.region(), "endpoint": store.endpoint(),
                    "addressingStyle": "Path", "credentials": {"secretRef": {"name": NAMESPACE}},
                },
                "access": [{"namespaces": {"names": [NAMESPACE]}, "operations": ["Upload", "Download"]}],
            },
        }),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
