use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of a store may be in use at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreLimits {
    /// How many grants of all namespaces together may have a key of this store in their Secrets at one time. One more
    /// waits (TooManyGrants) until one of those has ended; then comes the oldest grant of the namespace that has the fewest
    /// keys. What one namespace may have is said by access rules. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_live_grants: Option<i64>,

    /// How many visits to grants may wait for this store at one time (for a look at an object, for credentials from STS,
    /// for the store's first trial), so that a store which is slow takes no more than its part of the operator. The
    /// others stand in line, one namespace after the other. Default: a quarter of the operator's --concurrency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_requests_in_flight: Option<i64>,
}
