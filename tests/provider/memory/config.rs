//! The settings of a bucket in memory, as the spec of a store contains them.

use serde::Deserialize;

/// A bucket in memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStore {
    /// The name of the bucket.
    pub bucket: String,
    /// The address at which the operator reaches the server.
    pub endpoint: String,
    /// The address in the signed URLs. The default is the endpoint.
    pub public_endpoint: Option<String>,
    /// The name of the Secret with the access key.
    pub secret: Option<String>,
}
