//! The objects that the benchmark creates.

use serde_json::Value;

/// The names `PREFIX-000`, `PREFIX-001` and so on.
pub fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{prefix}-{n:03}")).collect()
}

/// A copy of a grant Secret without the fields that the apiserver sets. It has the same size, but not the label that
/// the operator watches.
pub fn bare(mut secret: Value) -> Value {
    let metadata = &mut secret["metadata"];
    let kept = ["annotations", "labels", "namespace", "ownerReferences"];
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|name, _| kept.contains(&name.as_str()));
    }
    metadata["labels"]["app.kubernetes.io/managed-by"] = "bench".into();
    secret
}
