//! What is kept of the objects that are watched: all of them are in memory, and who may make one chooses what it carries.

use kube::core::ObjectMeta;

use crate::grant::is_read;

/// The most that is kept of the value of one, in bytes. Of times, which Valet's own say, and of marks more means nothing.
const LONGEST: usize = 256;

/// Drops what nobody reads: who wrote which field, and annotations of others, `kubectl apply`'s copy of the whole object for one.
/// An object can carry 256 KiB of them.
pub fn lighten(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    let Some(annotations) = &mut meta.annotations else {
        return;
    };
    annotations.retain(|name, _| is_read(name));
    for value in annotations.values_mut() {
        value.truncate(value.floor_char_boundary(LONGEST));
    }
    if annotations.is_empty() {
        meta.annotations = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept() {
        let long = "é".repeat(1000);
        let meta = json!({
            "name": "g", "labels": {"app.kubernetes.io/instance": "x"}, "finalizers": ["a/b"],
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": long, "mine": long, "valetkey.dev.example/x": long,
                "valetkey.dev/renew-requested-at": "2026-01-01T00:00:00Z", "valetkey.dev/canary-requested-at": long,
                "argocd.argoproj.io/tracking-id": "app",
            },
        });
        let mut meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        lighten(&mut meta);
        let kept = serde_json::to_value(&meta).unwrap();
        assert_eq!(
            kept,
            json!({
                "name": "g", "labels": {"app.kubernetes.io/instance": "x"}, "finalizers": ["a/b"],
                "annotations": {
                    "valetkey.dev/renew-requested-at": "2026-01-01T00:00:00Z",
                    "valetkey.dev/canary-requested-at": "é".repeat(128), "argocd.argoproj.io/tracking-id": "app",
                },
            })
        );
    }
}
