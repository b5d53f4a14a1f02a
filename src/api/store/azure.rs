use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AddressingStyle, SecretRef, UnsignedHeaders};

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.storedAccessPolicy) || has(self.credentials)").message("storedAccessPolicy needs an account key, since keys that an identity signs cannot be tied to a policy: set credentials.secretRef, or leave storedAccessPolicy out"))]
pub struct AzureBlobStore {
    /// Name of the storage account. Example: mediastore
    #[schemars(length(min = 3, max = 24))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+$')").message("account is not the name of a storage account: 3 to 24 lower-case letters and digits"))]
    pub account: String,

    /// Name of the container. Example: media
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')").message("container is not the name of a container: 3 to 63 lower-case letters, digits and single '-', starting and ending with a letter or digit"))]
    pub container: String,

    /// Where the operator reaches the account's blobs, and what stands in the signed URLs unless publicEndpoint is set:
    /// scheme, host and port, no path. Default: https://ACCOUNT.blob.core.windows.net
    /// Example: https://mediastore.blob.core.usgovcloudapi.net
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must be scheme, host and port only, as in https://mediastore.blob.core.windows.net: no path, user or query"))]
    pub endpoint: Option<String>,

    /// Scheme, host and port that go into the signed URLs, where workloads reach the store by another name than
    /// the operator does. Default: endpoint. Example: https://blobs.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must be scheme, host and port only, as in https://blobs.example.com: no path, user or query"))]
    pub public_endpoint: Option<String>,

    /// Where the account's name goes: VirtualHost, if the endpoint is the account's own, as all of Azure's are; Path,
    /// if it stands before the container in the path, as with Azurite. Default: VirtualHost.
    #[serde(default)]
    pub addressing_style: AddressingStyle,

    /// The credentials that sign. Absent: the operator's own identity, by workload identity or the machine's managed
    /// identity; an ObjectStore may use that only if the operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<AzureBlobCredentials>,

    /// Name of a stored access policy of the container, to which every key is tied: whoever removes the policy ends all
    /// keys that name it (within 30 s), which nothing else does but a new account key. The policy must exist, with neither times nor
    /// permissions of its own, since the keys have theirs. Needs an account key (credentials.secretRef): keys that an identity
    /// signs cannot be tied to a policy. Default: none.
    /// Example: valet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.-]+$')").message("storedAccessPolicy is not a plain identifier: at most 64 letters, digits, '_', '.' and '-'"))]
    pub stored_access_policy: Option<String>,

    /// The one IPv4 address, or the range of them, from which keys of this store work. Azure sees the address that
    /// traffic leaves the cluster with. Default: from anywhere.
    /// Example: 203.0.113.0-203.0.113.255
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 7, max = 31))]
    #[x_kube(validation = Rule::new("self.matches('^((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})(-((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2}))?$')").message("ipRange is neither an IPv4 address nor two with a '-' between, as in 203.0.113.0-203.0.113.255"))]
    pub ip_range: Option<String>,

    /// What to do if the store obeys an x-ms-copy-source that is not signed, as Azurite does: the holder of an upload
    /// key could copy any blob of the account. Refuse: no keys for uploads. Tolerate: the account holds nothing that
    /// matters. Azure itself takes only sources that the sender may read. Default: Refuse.
    #[serde(default)]
    pub unsigned_headers: UnsignedHeaders,
}

/// Where Azure credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureBlobCredentials {
    /// The Secret with the account's key: data AZURE_STORAGE_KEY, and AZURE_STORAGE_ACCOUNT, which must then be the
    /// store's account. Of a ClusterObjectStore: in the operator's namespace; of an ObjectStore: in the store's own.
    pub secret_ref: SecretRef,
}
