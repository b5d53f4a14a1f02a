use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AddressingStyle, SecretRef, UnsignedHeaders};

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.storedAccessPolicy) || has(self.credentials)").message("storedAccessPolicy needs an account key, because a user delegation SAS cannot refer to a stored access policy; set credentials.secretRef, or remove storedAccessPolicy"))]
pub struct AzureBlobStore {
    /// Name of the storage account. Example: mediastore
    #[schemars(length(min = 3, max = 24))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+$')").message("account is not a valid storage account name: use 3 to 24 lower-case letters and digits"))]
    pub account: String,

    /// Name of the container. Example: media
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')").message("container is not a valid container name: use 3 to 63 lower-case letters, digits and single '-', and start and end with a letter or digit"))]
    pub container: String,

    /// The address at which the operator reaches the account's blob service: scheme, host and port, no path. The
    /// signed URLs also contain this address, unless publicEndpoint is set. Default:
    /// https://ACCOUNT.blob.core.windows.net
    /// Example: https://mediastore.blob.core.usgovcloudapi.net
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must contain only a scheme, a host and an optional port, for example https://mediastore.blob.core.windows.net; remove any path, user or query"))]
    pub endpoint: Option<String>,

    /// The address of the store in the signed URLs: scheme, host and port, no path. Set this field if the workloads
    /// and the operator reach the store at different addresses. Default: endpoint.
    /// Example: https://blobs.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must contain only a scheme, a host and an optional port, for example https://blobs.example.com; remove any path, user or query"))]
    pub public_endpoint: Option<String>,

    /// The position of the account name in URLs. VirtualHost: in the host name of the endpoint, as for all endpoints
    /// of Azure. Path: in the path before the container, as for Azurite. Default: VirtualHost.
    #[serde(default)]
    pub addressing_style: AddressingStyle,

    /// The credentials with which Valet signs. Without this field, Valet signs with the operator's own identity
    /// (workload identity, or the managed identity of the machine). An ObjectStore can use the operator's identity
    /// only if the operator runs with --share-credentials-with-namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<AzureBlobCredentials>,

    /// Name of a stored access policy of the container. Every SAS URL that Valet issues refers to this policy. If you
    /// remove the policy, all of these SAS URLs stop working within 30 seconds. Without a policy, only a new account
    /// key ends the SAS URLs early. The policy must exist. It must contain no times and no permissions, because each
    /// SAS URL contains its own times and permissions. The field needs an account key (credentials.secretRef),
    /// because a user delegation SAS cannot refer to a policy. Default: no policy.
    /// Example: valet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.-]+$')").message("storedAccessPolicy is not a valid policy name; use at most 64 letters, digits, '_', '.' and '-'"))]
    pub stored_access_policy: Option<String>,

    /// The IPv4 address, or the range of IPv4 addresses, from which clients can use the credentials that Valet issues
    /// for this store. Azure checks the address with which traffic leaves the cluster. Default: any address.
    /// Example: 203.0.113.0-203.0.113.255
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 7, max = 31))]
    #[x_kube(validation = Rule::new("self.matches('^((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})(-((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})[.]){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2}))?$')").message("ipRange is neither an IPv4 address nor a range of IPv4 addresses; write an address such as 203.0.113.7 or a range such as 203.0.113.0-203.0.113.255"))]
    pub ip_range: Option<String>,

    /// What Valet does if the store obeys an unsigned x-ms-copy-source header, as Azurite does. The holder of an
    /// upload URL could then copy any blob of the account. Refuse: Valet issues no credentials for uploads. Tolerate:
    /// Valet issues credentials for uploads. Use Tolerate only if the account contains no confidential data. Azure
    /// itself copies only from sources that the sender may read. Default: Refuse.
    #[serde(default)]
    pub unsigned_headers: UnsignedHeaders,
}

/// The credentials of a container of Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureBlobCredentials {
    /// The Secret with the account key. The account key is in the entry AZURE_STORAGE_KEY. The optional entry
    /// AZURE_STORAGE_ACCOUNT must be equal to the account of the store. The Secret of a ClusterObjectStore is in the
    /// operator's namespace. The Secret of an ObjectStore is in the namespace of the ObjectStore.
    pub secret_ref: SecretRef,
}
