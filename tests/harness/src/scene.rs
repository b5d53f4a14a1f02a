//! Where a program that watches operators at work begins: the servers, Valet's kinds, and a store for one namespace of
//! tenants.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, Result, S3Server, Tools,
    operator::{crds, find_valet},
};

/// A control plane and an S3 server, with one name for the tenants' namespace, their bucket and their ClusterObjectStore.
pub struct Scene {
    // Dropped in this order: clients before servers.
    /// Kubernetes.
    pub plane: ControlPlane,
    /// The object store.
    pub store: S3Server,
    valet: PathBuf,
    name: &'static str,
}

impl Scene {
    /// Starts the servers. The store has one access rule, which is for the namespace; `rule` says what it may do, as in
    /// `{"operations": ["Download"]}`. No operator yet.
    ///
    /// # Errors
    /// If there is no Valet (see [`find_valet`]), or a server does not start.
    pub fn set(name: &'static str, rule: Value) -> Result<Self> {
        let valet = find_valet()?;
        let tools = Tools::locate()?;
        let store = S3Server::start(&tools)?;
        store.create_bucket(name)?;
        let options = ControlPlaneOptions {
            manifests: vec![crds(&valet)?],
            ..ControlPlaneOptions::default()
        };
        let plane = ControlPlane::start_with(&tools, options)?;
        plane.apply_all(&setting(name, rule, &store))?;
        Ok(Self {
            plane,
            store,
            valet,
            name,
        })
    }

    /// Starts an operator. See [`Operator::start`].
    ///
    /// # Errors
    /// As [`Operator::start`].
    pub fn operator(&self, options: &OperatorOptions) -> Result<Operator> {
        Operator::start(&self.valet, &self.plane, options)
    }

    /// A grant of the tenants' for the object `tenants/NAMESPACE/NAME`.
    pub fn grant(&self, kind: &str, name: &str, seconds: u64) -> Value {
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "storeRef": {"kind": "ClusterObjectStore", "name": self.name},
                "key": format!("tenants/{}/{name}", self.name), "expirationSeconds": seconds,
            },
        })
    }
}

/// Namespaces, and the store with its credentials.
fn setting(name: &str, mut rule: Value, store: &S3Server) -> Vec<Value> {
    rule["namespaces"] = json!({"names": [name]});
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    vec![
        namespace("valet-system"),
        namespace(name),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "valet-system"},
            "stringData": {"AWS_ACCESS_KEY_ID": store.access_key(), "AWS_SECRET_ACCESS_KEY": store.secret_key()},
        }),
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
            "spec": {
                "s3": {
                    "bucket": name, "region": store.region(), "endpoint": store.endpoint(), "addressingStyle": "Path",
                    "credentials": {"secretRef": {"name": name}},
                },
                "access": [rule],
            },
        }),
    ]
}
