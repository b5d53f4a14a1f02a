use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AddressingStyle, SecretRef};

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsStore {
    /// Name of the bucket. Example: media
    #[schemars(length(min = 3, max = 222))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9._-]*[a-z0-9]$')").message("bucket is not a valid bucket name: use 3 to 222 lower-case letters, digits, '.', '_' and '-', and start and end with a letter or digit"))]
    pub bucket: String,

    /// The address at which the operator reaches the store: scheme, host and port, no path. The signed URLs also
    /// contain this address, unless publicEndpoint is set. Default: https://storage.googleapis.com
    /// Example: https://storage.googleapis.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must contain only a scheme, a host and an optional port, for example https://storage.googleapis.com; remove any path, user or query"))]
    pub endpoint: Option<String>,

    /// The address of the store in the signed URLs: scheme, host and port, no path. Set this field if the workloads
    /// and the operator reach the store at different addresses. The host is part of the signature, so clients must
    /// use exactly this host. Default: endpoint.
    /// Example: https://storage.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must contain only a scheme, a host and an optional port, for example https://storage.example.com; remove any path, user or query"))]
    pub public_endpoint: Option<String>,

    /// The position of the bucket name in URLs. Path: in the path. VirtualHost: in the host name, for example
    /// media.storage.googleapis.com. Default: Path.
    #[serde(default = "path")]
    pub addressing_style: AddressingStyle,

    /// The credentials with which Valet signs. Without this field, Valet signs with the operator's own identity
    /// (workload identity, the service account of the machine, or the file of GOOGLE_APPLICATION_CREDENTIALS). An
    /// ObjectStore can use the operator's identity only if the operator runs with
    /// --share-credentials-with-namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GcsCredentials>,

    /// The object key for probes and conformance checks. Valet writes only an object with this object key, and
    /// objects below it. The store's credentials must be allowed to write this object key. After a probe, Valet
    /// deletes the objects. Default: valet-probe
    /// Example: tenants/valet-probe
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$') && !self.matches('(^|/)[.]{1,2}(/|$)')").message("probeKey is not a plain object key; use segments of letters, digits, '.', '_' and '-', separated by single slashes, and no '.' or '..' segment"))]
    pub probe_key: Option<String>,

    /// Whether grants may have mode: Resumable. The signed URL of such a grant starts an upload session. Everybody
    /// who has the address of the session can upload data of any size for a week. The session can outlive the signed
    /// URL, maxExpirationSeconds and the deadlineTime of the grant. Refuse: Valet refuses such grants. Tolerate:
    /// Valet issues such signed URLs. Default: Refuse.
    #[serde(default)]
    pub resumable_uploads: ResumableUploads,
}

/// Whether grants may start upload sessions that accept data after the signed URL has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResumableUploads {
    /// Refuse grants with `mode: Resumable`.
    #[default]
    Refuse,
    /// Allow grants with `mode: Resumable`.
    Tolerate,
}

fn path() -> AddressingStyle {
    AddressingStyle::Path
}

/// The credentials of a bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) || has(self.signAs)").message("the field credentials is empty; set credentials.secretRef, credentials.signAs or both, or remove the field credentials to use the operator's own identity"))]
pub struct GcsCredentials {
    /// The Secret with a service account key. The entry credentials.json contains the file that the command 'gcloud
    /// iam service-accounts keys create' writes. The Secret of a ClusterObjectStore is in the operator's namespace.
    /// The Secret of an ObjectStore is in the namespace of the ObjectStore. Without this field, Valet uses the
    /// operator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// The service account that signs with the signBlob method of Google's IAM API. The identity that calls IAM
    /// (secretRef, or the operator's own identity) needs the role roles/iam.serviceAccountTokenCreator on this
    /// service account. With signAs, the longest lifetime is 12 hours (43200 seconds), and each credential needs one
    /// IAM call. Default: the service account of the credentials.
    /// Example: valet@project.iam.gserviceaccount.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 6, max = 254))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*[.][A-Za-z]+$')").message("credentials.signAs is not the email address of a service account; use the form NAME@PROJECT.iam.gserviceaccount.com"))]
    pub sign_as: Option<String>,
}
