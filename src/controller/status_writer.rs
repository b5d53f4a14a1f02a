//! Writes the statuses of grants and stores.

use std::fmt::Debug;

use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    error::{Error, call},
    secrets::FIELD_MANAGER,
};

/// Replaces the status `old` of an object with the status `new`. Returns the object that the apiserver sends in its
/// answer. The patch also removes status fields that clients other than Valet have written.
///
/// # Errors
///
/// Returns [`Error::Conflict`] if somebody has replaced or changed the object after Valet read it.
pub async fn write_status<K, S>(
    what: &'static str,
    api: &Api<K>,
    object: &K,
    (old, new): (&S, &S),
) -> Result<K, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let meta = object.meta();
    let patch = json!({
        // The UID and the resource version are preconditions of the patch.
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": merge_patch(&fields(old), fields(new)),
    });
    let name = meta.name.as_deref().unwrap_or_default();
    call(what, api.patch_status(name, &patch_params(), &Patch::Merge(patch))).await
}

/// Returns the parameters that Valet uses for every patch of a grant or store.
pub fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    }
}

fn fields(status: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Returns a JSON merge patch (RFC 7396) that turns the fields `old` into the fields `new`. The patch sets fields that
/// are missing in `new` to null.
fn merge_patch(old: &Map<String, Value>, mut new: Map<String, Value>) -> Map<String, Value> {
    for (name, before) in old {
        let now = new.entry(name.clone()).or_insert(Value::Null);
        if let (Value::Object(before), Value::Object(fields)) = (before, now) {
            *fields = merge_patch(before, std::mem::take(fields));
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(old: Value, new: Value) -> Value {
        Value::Object(merge_patch(&fields(&old), fields(&new)))
    }

    #[test]
    fn patch_sets_missing_fields_to_null() {
        let old = json!({"renewals": 1, "issuedTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Ready"}]});
        let new = json!({"renewals": 2, "conditions": [{"type": "Active"}], "uploadID": "u"});
        let expected =
            json!({"renewals": 2, "conditions": [{"type": "Active"}], "uploadID": "u", "issuedTime": null});
        assert_eq!(patch(old, new), expected);
    }

    /// A merge patch does not change nested fields that are missing in the patch.
    #[test]
    fn patch_sets_missing_nested_fields_to_null() {
        let old = json!({"object": {"size": 3, "eTag": "a", "checksumMD5": "b"}, "binding": {"name": "s"}});
        let new = json!({"object": {"size": 4, "eTag": "c"}});
        let expected = json!({"object": {"size": 4, "eTag": "c", "checksumMD5": null}, "binding": null});
        assert_eq!(patch(old, new), expected);
    }
}
