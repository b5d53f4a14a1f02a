//! The objects that the bench makes.

use serde_json::Value;

/// `PREFIX-000` and so on.
pub fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{prefix}-{n:03}")).collect()
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
