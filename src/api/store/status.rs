use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the store can be used. Written by Valet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the settings make sense, the store answers and takes the credentials. UnsignedHeadersRefused, ClockInSync and
    /// KeysEnforced: what was found when the store was tried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::api::status::conditions")]
    pub conditions: Vec<Condition>,
    /// What grants may ask of this store; a grant that asks for anything else is refused by this name. Those with
    /// PostForm/ or Credentials/ before them are what grants of that mode may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 64)))]
    pub capabilities: Vec<String>,
    /// When the credentials with which keys are signed now come to their end, if they do: no key outlives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_expiration_time: Option<Time>,
    /// What came of trying the store out with real keys, if the annotation valetkey.dev/canary-requested-at asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
}

/// When a store was tried out with real keys. What was found is in the condition KeysEnforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryStatus {
    /// The annotation's value that was answered.
    #[schemars(length(max = 64))]
    pub request: String,
    /// When.
    pub time: Time,
}
