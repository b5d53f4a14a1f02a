use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits on the use of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreLimits {
    /// The largest number of live grants of all namespaces together. A live grant has a credential of this store in
    /// its Secret. A grant over the limit waits (TooManyGrants) until a live grant ends. The next grant is the oldest
    /// one of the namespace with the fewest live grants. For a limit on one namespace, use maxLiveGrants of an access
    /// rule. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_live_grants: Option<i64>,

    /// The largest number of reconciles that wait for this store at the same time. A reconcile waits, for example,
    /// for a HEAD request, for credentials from STS, or for the first probe. The limit prevents a slow store from
    /// blocking the whole operator. Further reconciles wait in a queue that serves the namespaces in turn. Default: a
    /// quarter of the operator's --concurrency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_requests_in_flight: Option<i64>,
}
