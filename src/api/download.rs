use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GrantStatus, Terms};

/// The permission to read one object for a limited time.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "valetkey.dev",
    version = "v1alpha1",
    kind = "DownloadGrant",
    plural = "downloadgrants",
    shortname = "dg",
    category = "valet",
    namespaced,
    cel,
    status = "GrantStatus",
    derive = "PartialEq",
    doc = "A DownloadGrant is the permission to read one object in an object store for a limited time. Valet checks it against the access rules of the store. Then Valet writes a signed URL for exactly this object into a Secret of the same namespace. A pod that mounts the Secret downloads the object with: curl --config /grant/curl.cfg --output FILE",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "The status of the condition Ready. It is True if the credential is issued or if Valet has no work left for the grant."
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "The reason of the condition Ready, for example Issued, Expired or StoreNotFound."
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.binding.expirationTime",
        description = "The time when the credential in the grant Secret expires. The column is empty if no credential is issued."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name", priority = "1"),
    printcolumn(name = "Key", type_ = "string", json_path = ".spec.key", priority = "1"),
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".status.binding.name",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    )
)]
#[x_kube(
    validation = Rule::new("has(self.version) == has(oldSelf.version)").message("spec.version is immutable and cannot be added or removed; create a new grant"),
    validation = Rule::new("has(self.response) == has(oldSelf.response)").message("spec.response is immutable and cannot be added or removed; create a new grant"),
    validation = Rule::new("self.key.endsWith('/') ? has(self.mode) && self.mode == 'Credentials' : true").message("spec.key ends with '/' and is therefore a prefix of object keys; set spec.mode to Credentials, or name one object, for example 'folder/file'"),
    validation = Rule::new("has(oldSelf.revoke) && oldSelf.revoke ? has(self.revoke) && self.revoke : true").message("spec.revoke cannot be set back to false; create a new grant"),
    validation = Rule::new("has(self.expirationSeconds) && has(self.renewal) && has(self.renewal.policy) && self.renewal.policy == 'Always' ? self.expirationSeconds >= 600 : true").message("spec.expirationSeconds must be 600 or more if spec.renewal.policy is 'Always', because the kubelet takes up to two minutes to update a mounted Secret"),
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("spec.secretName cannot be added or removed, because pods could already have mounted the Secret; create a new grant")
)]
pub struct DownloadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

    /// What the Secret contains: Url or Credentials. Url: a signed URL, for example for curl. Credentials: temporary
    /// credentials for S3 clients. The temporary credentials can read this object. If key ends with '/', they can
    /// list and read every object below this prefix. With Credentials, the store needs credentials.assumeRole and an
    /// access rule with credentials: Allow. Immutable. Default: Url.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.mode is immutable; create a new grant"))]
    pub mode: DownloadMode,

    /// The version of the object, as the store names it (S3: the version ID). Default: the newest version at the time
    /// of the download. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("spec.version is immutable; create a new grant"),
        validation = Rule::new(r"self.matches('^[\\x21-\\x7e]+$')").message("spec.version must be printable ASCII without spaces; copy the version exactly as the object store prints it")
    )]
    pub version: Option<String>,

    /// Response headers of the download. They replace the headers that are stored with the object. The signature
    /// covers these response headers. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.response is immutable; create a new grant"))]
    pub response: Option<ResponseHeaders>,
}

/// What the holder of a DownloadGrant gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DownloadMode {
    #[default]
    #[allow(missing_docs)]
    Url,
    #[allow(missing_docs)]
    Credentials,
}

/// Response headers that a download overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResponseHeaders {
    /// Content-Type of the response. Example: text/csv
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("spec.response.contentType must contain only printable ASCII characters; remove all other characters"))]
    pub content_type: Option<String>,
    /// Content-Disposition of the response. Example: attachment; filename="report.csv"
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("spec.response.contentDisposition must contain only printable ASCII characters; encode all other characters as in RFC 6266, for example filename*=UTF-8''na%C3%AFve.txt"))]
    pub content_disposition: Option<String>,
    /// Content-Encoding of the response. Example: gzip
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("spec.response.contentEncoding must contain only printable ASCII characters; remove all other characters"))]
    pub content_encoding: Option<String>,
    /// Content-Language of the response. Example: en
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("spec.response.contentLanguage must contain only printable ASCII characters; remove all other characters"))]
    pub content_language: Option<String>,
    /// Cache-Control of the response. Example: no-store
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("spec.response.cacheControl must contain only printable ASCII characters; remove all other characters"))]
    pub cache_control: Option<String>,
}
