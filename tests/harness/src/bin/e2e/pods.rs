//! Objects as tenants write them: pods with the restricted Pod Security level, grants and stores.

use serde_json::{Value, json};

/// Lifetime in seconds of a credential that does not expire during a test.
pub const LONG: u64 = 900;

/// A pod spec for the restricted level: runs `script` with `sh`, mounts the Secrets `mounts` at `/NAME`, and has a
/// writable folder `/work`.
pub fn spec(image: &str, script: &str, mounts: &[&str]) -> Value {
    let secrets = mounts.iter().map(|name| {
        (
            json!({"name": name, "mountPath": format!("/{name}"), "readOnly": true}),
            json!({"name": name, "secret": {"secretName": name, "defaultMode": 0o440}}),
        )
    });
    let (mut volume_mounts, mut volumes): (Vec<_>, Vec<_>) = secrets.unzip();
    volume_mounts.push(json!({"name": "work", "mountPath": "/work"}));
    volumes.push(json!({"name": "work", "emptyDir": {}}));
    json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 1,
        // The pods need no cluster DNS, because the endpoints of the stores are IP addresses.
        "dnsPolicy": "Default",
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-euc", script],
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": volume_mounts,
        }],
        "volumes": volumes,
    })
}

/// A pod that runs `script` once.
pub fn pod(namespace: &str, name: &str, image: &str, script: &str, mounts: &[&str]) -> Value {
    let mut spec = spec(image, script, mounts);
    spec["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// A Job that runs one pod with this spec once.
pub fn job(namespace: &str, name: &str, mut spec: Value) -> Value {
    spec["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}},
    })
}

/// An upload grant for `tenants/NAMESPACE/NAME`.
pub fn upload(namespace: &str, name: &str, store: &str, seconds: u64) -> Value {
    grant(
        "UploadGrant",
        namespace,
        name,
        store,
        &format!("tenants/{namespace}/{name}"),
        seconds,
    )
}

/// A download grant for an object key.
pub fn download(namespace: &str, name: &str, store: &str, key: &str, seconds: u64) -> Value {
    grant("DownloadGrant", namespace, name, store, key, seconds)
}

fn grant(kind: &str, namespace: &str, name: &str, store: &str, key: &str, seconds: u64) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "storeRef": {"kind": "ClusterObjectStore", "name": store}, "key": key, "expirationSeconds": seconds,
        },
    })
}

/// An access rule for all namespaces with the label of the tests. It allows object keys under `tenants/NAMESPACE/`.
pub fn rule_for_all(label: &str) -> Value {
    json!({
        "namespaces": {"selector": {"matchLabels": {label: "tenant"}}}, "operations": ["Upload", "Download"],
        "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 3600,
    })
}
