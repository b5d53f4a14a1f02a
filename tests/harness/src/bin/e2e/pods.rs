//! Objects as tenants write them: pods under the restricted Pod Security level, grants, stores.

use serde_json::{Value, json};

/// The seconds of a key that a story does not wait for.
pub const LONG: u64 = 900;

/// A pod's spec under the restricted level: `script` by `sh`, with the Secrets `mounts` at `/NAME` and `/work` to write to.
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
        // No cluster DNS is needed: stores are known by their addresses.
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

/// A Job that runs one pod of this spec, once.
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

/// A download grant for a key.
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

/// An access rule for namespaces with the suite's label, below `tenants/NAMESPACE/`.
pub fn rule_for_all(label: &str) -> Value {
    json!({
        "namespaces": {"selector": {"matchLabels": {label: "tenant"}}}, "operations": ["Upload", "Download"],
        "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 3600,
    })
}
