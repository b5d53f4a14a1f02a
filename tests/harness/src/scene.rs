//! The common setup of programs that observe operators: the servers, the CRDs, and a store for one namespace of
//! tenants.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, Result, S3Server, Tools,
    operator::{crds, find_valet},
};

/// A control plane and an S3 server. The namespace of the tenants, their bucket and their ClusterObjectStore have the
/// same name.
pub struct Scene {
    // The fields are dropped in this order: clients before servers.
    /// The Kubernetes control plane.
    pub plane: ControlPlane,
    /// The object store.
    pub store: S3Server,
    valet: PathBuf,
    name: &'static str,
}

impl Scene {
    /// Starts the servers. The store has one access rule for the namespace; `rule` contains the other fields of the
    /// rule, for example `{"operations": ["Download"]}`. No operator is started.
    ///
    /// # Errors
    /// Returns an error if the `valet` program is missing (see [`find_valet`]), or if a server does not start.
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

    /// Builds a grant of a tenant for the object `tenants/NAMESPACE/NAME`.
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

/// The namespaces, and the store with its credentials.
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
