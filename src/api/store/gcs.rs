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

    /// Where the bucket's name goes: into the path (Path), or into the host (VirtualHost), as in
    /// media.storage.googleapis.com. Default: Path.
    #[serde(default = "path")]
    pub addressing_style: AddressingStyle,

    /// The credentials that sign. Absent: the operator's own identity, by workload identity, the machine's service
    /// account or the file of GOOGLE_APPLICATION_CREDENTIALS; an ObjectStore may use that only if the operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GcsCredentials>,

    /// The key below which Valet tries the store out: it must be one that the account may write, and the
    /// probes leave nothing there. Default: valet-probe
    /// Example: tenants/valet-probe
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$') && !self.matches('(^|/)[.]{1,2}(/|$)')").message("probeKey is not a plain key: letters, digits, '.', '_' and '-', in segments separated by single slashes"))]
    pub probe_key: Option<String>,

    /// Whether grants may have mode: Resumable. The key then starts a session, and the session's address, which anybody
    /// who has it can use, takes bytes for a week: longer than the key, than maxExpirationSeconds and than a grant's
    /// deadlineTime, and of any size. Refuse: no such grants. Tolerate: that is acceptable. Default: Refuse.
    #[serde(default)]
    pub resumable_uploads: ResumableUploads,
}

/// Whether sessions that outlive their keys are acceptable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResumableUploads {
    /// No resumable uploads.
    #[default]
    Refuse,
    /// Grants may ask for them.
    Tolerate,
}

fn path() -> AddressingStyle {
    AddressingStyle::Path
}

/// Where Google credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) || has(self.signAs)").message("credentials says nothing about where they come from: set secretRef, signAs or both, or leave credentials out for the operator's own"))]
pub struct GcsCredentials {
    /// The Secret with a service account's key: data credentials.json, the file that
    /// gcloud iam service-accounts keys create writes. Of a ClusterObjectStore: in the operator's namespace; of an
    /// ObjectStore: in the store's own. Absent: the operator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// The service account to sign as, by Google's IAM (signBlob): the credentials above, or the operator's own, need
    /// roles/iam.serviceAccountTokenCreator on it. No key then lives longer than 12 hours (43200 s). Takes one call of IAM a
    /// key. Default: the account that the credentials are of.
    /// Example: valet@project.iam.gserviceaccount.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 6, max = 254))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*[.][A-Za-z]+$')").message("signAs is not a service account; write it as name@project.iam.gserviceaccount.com"))]
    pub sign_as: Option<String>,
}
