use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_MESSAGE_BYTES, ObservedObject};

/// What has become of a grant. Output only: Valet writes it, believes only what it has written itself, and sets right what
/// somebody else has written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the summary that kubectl wait, Helm, Argo CD and Flux read. Active: the key can be used now.
    /// Completed: the upload was seen in the store. Reconciling and Stalled: for kstatus, only while True. Suspended,
    /// Revoked, RenewalFailing and SecretContested: only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// When the key was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_time: Option<Time>,
    /// When the key stops working: the least of what was asked, what the store allows and when the signing
    /// credentials end. It stays when the key was withdrawn, since copies that somebody has read work until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// The lifetime that was asked for when the key was signed, in seconds. Another one in the spec is a wish for
    /// another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_seconds: Option<i64>,
    /// When a new key will take the place of this one: by spec.renewal, or as the annotation
    /// valetkey.dev/renew-requested-at asks. Absent if none will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
    /// How many keys the grant had before this one. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewals: Option<i64>,
    /// When the last of the keys before this one stops working. Absent if that is not later than expirationTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_expiration_time: Option<Time>,
    /// The store's name for the upload in parts that the key is for; only with mode: Multipart. It gives no access.
    #[serde(default, rename = "uploadID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub upload_id: Option<String>,
    /// When the grant had done its work; it is deleted ttlSecondsAfterFinished later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<Time>,
    /// The Secret that holds the key, and until when; absent while there is none to use (Service Binding's
    /// status.binding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The uploaded object, as the store described it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObservedObject>,
    /// A message authentication code of the fields above that Valet's decisions rest on, with a key that only the operator
    /// has. A status that somebody else has written is not believed, and is written again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub record_signature: Option<String>,
}

/// Names the Secret that holds a key, as Service Binding's Provisioned Service does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the Secret.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When the key in it stops working: what kubectl get shows as EXPIRES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
}

/// The schema of conditions: a list that several writers can share, keyed by type. Their texts have the bounds that
/// `printable` keeps.
pub(super) fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    for (field, most) in [
        ("type", 316),
        ("status", 7),
        ("reason", 1024),
        ("message", MAX_MESSAGE_BYTES),
    ] {
        if let Some(text) = schema.pointer_mut(&format!("/items/properties/{field}")) {
            text["maxLength"] = most.into();
        }
    }
    schema
}
