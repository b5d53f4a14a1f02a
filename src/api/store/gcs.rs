use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsStore {
    /// Name of the bucket. Example: media
    #[schemars(length(min = 3, max = 222))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9._-]*[a-z0-9]$')").message("bucket is not a bucket name: 3 to 222 lower-case letters, digits, '.', '_' and '-', starting and ending with a letter or digit"))]
    pub bucket: String,

    /// Where the operator reaches the store, and what stands in the signed URLs unless publicEndpoint is set: scheme,
    /// host and port, no path. Default: https://storage.googleapis.com
    /// Example: https://storage.googleapis.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must be scheme, host and port only, as in https://storage.googleapis.com: no path, user or query"))]
    pub endpoint: Option<String>,

    /// Scheme, host and port that go into the signed URLs, where workloads reach the store by another name than
    /// the operator does. The host is part of the signature, so it must be the one that clients use.
    /// Default: endpoint. Example: https://storage.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must be scheme, host and port only, as in https://storage.example.com: no path, user or query"))]
    pub public_endpoint: Option<String>,

    /// The credentials that sign. Absent: the operator's own identity; an ObjectStore may use that only if the operator
    /// allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GcsCredentials>,
}

/// Where Google credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsCredentials {
    /// The Secret with the service account's key. Of a ClusterObjectStore: in the operator's namespace; of an
    /// ObjectStore: in the store's own.
    pub secret_ref: SecretRef,
}
