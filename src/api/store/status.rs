use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the store can be used. Valet writes the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The metadata.generation of the store that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the settings are valid, the store answers, and it accepts the credentials. UnsignedHeadersRefused and
    /// ClockInSync: results of the last probe. ConstraintsEnforced: the result of the last conformance check.
    /// CredentialsExpirationKnown exists only while it is False. An operator that serves only one namespace writes
    /// its own conditions as NAMESPACE/TYPE, for example team-a/Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::api::status::conditions")]
    pub conditions: Vec<Condition>,
    /// The constraints that the store can enforce. Valet refuses a grant with any other constraint
    /// (CapabilityMissing). A name without a slash is a constraint that the store can enforce for signed URLs, or a
    /// mode that the store supports. A name such as PostForm/ContentLengthRange applies to grants with this mode. The
    /// name RequiresChecksum means that the store accepts only uploads with a checksum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 64)))]
    pub capabilities: Vec<String>,
    /// When the current signing credentials expire. No credential of a grant is valid longer. Absent if the signing
    /// credentials do not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_expiration_time: Option<Time>,
    /// The last conformance check. The annotation valetkey.dev/check-requested-at requests a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformance_check: Option<ConformanceCheckStatus>,
}

/// The last conformance check of a store. The condition ConstraintsEnforced contains the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConformanceCheckStatus {
    /// The value of the annotation that requested the check.
    #[schemars(length(max = 64))]
    pub request: String,
    /// The time of the check.
    pub time: Time,
}
