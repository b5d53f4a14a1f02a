//! The objects that the bench makes.

use serde_json::{Value, json};
use valet_harness::S3Server;

use crate::{NAMESPACE, times::rfc3339};

/// Namespaces, and a store with its credentials.
pub fn setting(store: &S3Server) -> Value {
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let credentials = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAMESPACE, "namespace": "valet-system"},
        "stringData": {"AWS_ACCESS_KEY_ID": store.access_key(), "AWS_SECRET_ACCESS_KEY": store.secret_key()},
    });
    let store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": NAMESPACE},
        "spec": {
            "s3": {
                "bucket": NAMESPACE, "region": store.region(), "endpoint": store.endpoint(),
                "addressingStyle": "Path", "credentials": {"secretRef": {"name": NAMESPACE}},
            },
            "access": [{
                "namespaces": {"names": [NAMESPACE]},
                "operations": ["Upload", "Download"],
                "keyPrefix": "tenants/{namespace}/",
                "maxExpirationSeconds": 7200,
            }],
        },
    });
    let items = [namespace("valet-system"), namespace(NAMESPACE), credentials, store];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// `PREFIX-000` and so on.
pub fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{prefix}-{n:03}")).collect()
}

/// A grant for two hours, or until a deadline (in seconds since 1970).
pub fn grant(kind: &str, name: &str, deadline: Option<i64>) -> Value {
    let mut grant = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "storeRef": {"kind": "ClusterObjectStore", "name": NAMESPACE},
            "key": format!("tenants/{NAMESPACE}/{name}"), "expirationSeconds": 7200,
        },
    });
    if let Some(deadline) = deadline {
        grant["spec"]["deadlineTime"] = rfc3339(deadline).into();
    }
    grant
}

/// The same Secret without what the apiserver has put in, and of the same size, yet no business of the operator's:
/// that watches by this label.
pub fn bare(mut secret: Value) -> Value {
    let metadata = &mut secret["metadata"];
    let kept = ["annotations", "labels", "namespace", "ownerReferences"];
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|name, _| kept.contains(&name.as_str()));
    }
    metadata["labels"]["app.kubernetes.io/managed-by"] = "bench".into();
    secret
}
