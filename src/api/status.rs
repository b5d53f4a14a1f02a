use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_MESSAGE_BYTES, ObservedObject};

/// The state of a grant. Only Valet writes the status. Valet ignores a status that another client wrote, and corrects
/// it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// The metadata.generation of the grant that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the summary for kubectl wait, Helm, Argo CD and Flux. Active: the credential can be used now.
    /// Completed: the upload arrived in the store. Reconciling and Stalled are conditions for kstatus. Reconciling,
    /// Stalled, Suspended, Revoked, RenewalFailing and SecretContested exist only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// When Valet issued the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_time: Option<Time>,
    /// When the credential expires: the earliest of the requested expiry, the limits of the store, and the expiry of
    /// the signing credentials. The field stays after Valet has deleted the Secret, because copies of the credential
    /// work until this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// The lifetime, in seconds, that the grant asked for when the credential was issued. If spec.expirationSeconds
    /// differs, Valet issues a new credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_seconds: Option<i64>,
    /// When Valet will replace the credential, because of spec.renewal or the annotation
    /// valetkey.dev/renew-requested-at. Absent if Valet will not replace the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
    /// How many credentials the grant had before the current one. Absent if the current credential is the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewals: Option<i64>,
    /// The latest expiry of the grant's earlier credentials. The field is present only if this time is later than
    /// expirationTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_expiration_time: Option<Time>,
    /// The upload ID of the multipart upload. Present only with mode: Multipart. The upload ID alone gives no access
    /// to the store.
    #[serde(default, rename = "uploadID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub upload_id: Option<String>,
    /// When the grant finished. Valet deletes the grant ttlSecondsAfterFinished seconds later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<Time>,
    /// The Secret with the credential, and when the credential expires. Absent if no credential can be used. The
    /// Service Binding specification defines this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The uploaded object, as the store describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObservedObject>,
    /// An HMAC over the status fields on which Valet's decisions depend. Only the operator has the HMAC key. Valet
    /// ignores a status without a valid HMAC and writes it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub record_signature: Option<String>,
}

/// The name of the Secret with the credential, as in a Provisioned Service of the Service Binding specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the Secret.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When the credential in the Secret expires. kubectl get shows this time in the column EXPIRES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
}

/// Returns the schema of the field `conditions`. The field is a list of type `map` with the key `type`, so that
/// several clients can write conditions. The limit for messages is the limit of the function `printable`.
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
