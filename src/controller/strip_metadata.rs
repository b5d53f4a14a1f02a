//! Removes data from watched objects before Valet caches them. All watched objects stay in memory, and users can
//! create very large objects.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource,
    core::{DeserializeGuard, ObjectMeta},
};

use crate::{
    api::{Grant, GrantStatus, ObservedObject, Store, StoreStatus, printable},
    core::is_read,
};

/// The maximum length in bytes of a cached annotation value or status field. Valet's own annotations contain only
/// times, which are much shorter than this limit.
const LONGEST: usize = 256;

/// The maximum number of cached conditions of one object. Valet writes at most ten conditions, and clients other than
/// Valet may add more.
const MOST_CONDITIONS: usize = 64;
/// The maximum length in bytes of a cached upload ID or record signature.
const LONGEST_NAME: usize = 1024;

/// Removes data that Valet does not need from an object that a watch delivered. The function also handles an object
/// that Valet cannot parse.
pub fn strip_watched<K: Resource<DynamicType = ()>>(object: &mut DeserializeGuard<K>, lighten_read: fn(&mut K)) {
    match &mut object.0 {
        Ok(read) => lighten_read(read),
        Err(invalid) => {
            invalid.error = printable(&invalid.error).into_owned();
            strip(&mut invalid.metadata);
        }
    }
}

/// Removes data that Valet does not read from a grant, and shortens the grant's status.
pub fn strip_grant<G: Grant>(grant: &mut G) {
    strip(grant.meta_mut());
    if let Some(status) = grant.grant_status_mut() {
        shorten(status);
    }
}

/// Removes data that Valet does not read from a store, and shortens the store's status.
pub fn strip_store<S: Store>(store: &mut S) {
    strip(store.meta_mut());
    if let Some(StoreStatus {
        conditions,
        capabilities,
        conformance_check,
        ..
    }) = store.store_status_mut()
    {
        shorten_conditions(conditions);
        capabilities.truncate(MOST_CONDITIONS * 2);
        capabilities.iter_mut().for_each(|name| cut(name, LONGEST));
        if let Some(conformance_check) = conformance_check {
            cut(&mut conformance_check.request, LONGEST);
        }
    }
}

/// Shortens a grant's status. The status can be very large, because clients other than Valet can also write the status.
fn shorten(status: &mut GrantStatus) {
    shorten_conditions(&mut status.conditions);
    status.upload_id.take_if(|id| id.len() > LONGEST_NAME);
    status
        .record_signature
        .take_if(|signature| signature.len() > LONGEST_NAME);
    status.object = status.object.take().map(ObservedObject::checked);
    if let Some(binding) = &mut status.binding {
        cut(&mut binding.name, LONGEST);
    }
}

fn shorten_conditions(conditions: &mut Vec<Condition>) {
    conditions.truncate(MOST_CONDITIONS);
    for condition in conditions {
        if let Cow::Owned(message) = printable(&condition.message) {
            condition.message = message;
        }
        cut(&mut condition.type_, 2 * LONGEST);
        cut(&mut condition.reason, LONGEST);
        cut(&mut condition.status, LONGEST);
    }
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
    text.shrink_to_fit();
}

/// Removes metadata that Valet does not read: the managed fields, and all annotations that Valet does not use. These
/// annotations can be large. For example, `kubectl apply` writes a copy of the object into an annotation. The apiserver
/// allows 256 KiB of annotations for one object.
pub fn strip(meta: &mut ObjectMeta) {
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
    use crate::api::{ClusterObjectStore, UploadGrant};

    /// A status can contain texts of 400 kB, because an older version of Valet copied such texts from a store's answer.
    #[test]
    fn huge_status_is_shortened_when_it_is_read() {
        let long = "é".repeat(200_000);
        let condition = json!({
            "type": "Ready", "status": "False", "reason": "ObjectMismatch", "message": long, "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let metadata = json!({"name": "g", "namespace": "web"});
        let grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "metadata": metadata,
            "spec": {"storeRef": {"kind": "ObjectStore", "name": "s"}, "key": "k"},
            "status": {
                "conditions": vec![condition.clone(); 100], "uploadID": long, "binding": {"name": long},
                "object": {"size": 3, "contentType": long, "eTag": long, "version": long, "checksumMD5": long},
            },
        });
        let mut grant: UploadGrant = serde_json::from_value(grant).unwrap();
        strip_grant(&mut grant);
        let kept = serde_json::to_string(&grant).unwrap();
        assert!(kept.len() < 120_000, "{} bytes", kept.len());
        assert!(kept.contains(r#""size":3"#), "{kept}");

        let store = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": metadata, "spec": {},
            "status": {
                "conditions": [condition], "capabilities": vec![long.clone(); 1000],
                "conformanceCheck": {"request": long, "time": "2026-01-01T00:00:00Z"},
            },
        });
        let mut store: DeserializeGuard<ClusterObjectStore> = serde_json::from_value(store).unwrap();
        strip_watched(&mut store, strip_store);
        let kept = serde_json::to_string(&store.0.unwrap()).unwrap();
        assert!(kept.len() < 50_000, "{} bytes", kept.len());

        // The parse error quotes the object, so Valet also shortens the error.
        let unreadable = json!({"metadata": metadata, "spec": long});
        let mut unreadable: DeserializeGuard<ClusterObjectStore> = serde_json::from_value(unreadable).unwrap();
        strip_watched(&mut unreadable, strip_store);
        assert!(unreadable.0.unwrap_err().error.len() <= 1024);
    }

    #[test]
    fn only_metadata_that_valet_uses_is_kept() {
        let long = "é".repeat(1000);
        let meta = json!({
            "name": "g", "labels": {"app.kubernetes.io/instance": "x"}, "finalizers": ["a/b"],
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": long, "mine": long, "valetkey.dev.example/x": long,
                "valetkey.dev/renew-requested-at": "2026-01-01T00:00:00Z", "valetkey.dev/check-requested-at": long,
                "argocd.argoproj.io/tracking-id": "app",
            },
        });
        let mut meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        strip(&mut meta);
        let kept = serde_json::to_value(&meta).unwrap();
        assert_eq!(
            kept,
            json!({
                "name": "g", "labels": {"app.kubernetes.io/instance": "x"}, "finalizers": ["a/b"],
                "annotations": {
                    "valetkey.dev/renew-requested-at": "2026-01-01T00:00:00Z",
                    "valetkey.dev/check-requested-at": "é".repeat(128), "argocd.argoproj.io/tracking-id": "app",
                },
            })
        );
    }
}
