use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ask, Grant, GrantStatus, Operation, Terms, rules::Rules};

/// Permission to read one object for a while.
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
    doc = "A DownloadGrant is the permission to read one object of an object store, for a while. Valet checks it against the store's access rules and puts a signed URL for exactly that object into a Secret of the same namespace; a pod that mounts the Secret downloads with: curl --config /grant/curl.cfg --output FILE",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "True: the key is there, or its time is over."
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is so, in one word."
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.binding.expirationTime",
        description = "When the key in the Secret stops working; empty while there is none."
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
    validation = Rule::new("has(self.version) == has(oldSelf.version)").message("version says what the grant permits and cannot be added or removed; make a new grant"),
    validation = Rule::new("has(self.response) == has(oldSelf.response)").message("response says what the grant permits and cannot be added or removed; make a new grant"),
    validation = Rule::new("!self.key.endsWith('/') || (has(self.mode) && self.mode == 'Credentials')").message("key ends with '/', which stands for everything below it: that takes mode: Credentials; name one object as 'folder/file', or set the mode"),
    validation = Rule::new("!(has(oldSelf.revoke) && oldSelf.revoke) || (has(self.revoke) && self.revoke)").message("revoke cannot be taken back; make a new grant"),
    validation = Rule::new("!(has(self.renewal) && has(self.renewal.policy) && self.renewal.policy == 'Always') || !has(self.expirationSeconds) || self.expirationSeconds >= 600").message("renewal.policy Always needs expirationSeconds of at least 600: kubelets take a minute or two to carry a new key to its pods; ask for 600 or more"),
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("secretName cannot be added or removed, since pods may have the Secret mounted; make a new grant")
)]
pub struct DownloadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

    /// What the holder gets. Url: a signed URL, as curl takes it. Credentials: temporary credentials for S3 clients, which
    /// can read this one key, or, if the key ends with '/', list and read every key below it; the store must have
    /// credentials.assumeRole and an access rule with credentials: Allow. Cannot change. Default: Url.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("mode says what the grant permits and cannot change; make a new grant"))]
    pub mode: DownloadMode,

    /// The version of the object, as the store names it (S3: the version ID). Default: the newest at the time of
    /// the download. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("version says what the grant permits and cannot change; make a new grant"),
        validation = Rule::new(r"self.matches('^[\\x21-\\x7e]+$')").message("version has characters that no store puts into one: copy it as the store prints it (printable ASCII, no spaces)")
    )]
    pub version: Option<String>,

    /// Headers that the store shall answer the download with, in place of those stored with the object. They
    /// are part of the signature. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("response says what the grant permits and cannot change; make a new grant"))]
    pub response: Option<ResponseHeaders>,
}

/// How an object is downloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DownloadMode {
    #[default]
    #[allow(missing_docs)]
    Url,
    #[allow(missing_docs)]
    Credentials,
}

/// Response headers to override on a download.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResponseHeaders {
    /// Content-Type of the response. Example: text/csv
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("response.contentType must be printable ASCII; remove other characters"))]
    pub content_type: Option<String>,
    /// Content-Disposition of the response. Example: attachment; filename="report.csv"
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("response.contentDisposition must be printable ASCII; write other characters as RFC 6266 does: filename*=UTF-8''na%C3%AFve.txt"))]
    pub content_disposition: Option<String>,
    /// Content-Encoding of the response. Example: gzip
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("response.contentEncoding must be printable ASCII; remove other characters"))]
    pub content_encoding: Option<String>,
    /// Content-Language of the response. Example: en
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("response.contentLanguage must be printable ASCII; remove other characters"))]
    pub content_language: Option<String>,
    /// Cache-Control of the response. Example: no-store
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[\\x20-\\x7e]+$')").message("response.cacheControl must be printable ASCII; remove other characters"))]
    pub cache_control: Option<String>,
}

impl Grant for DownloadGrant {
    const OPERATION: Operation = Operation::Download;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn ask(&self) -> Ask {
        Ask::Download {
            mode: self.spec.mode,
            version: self.spec.version.clone(),
            response: self.spec.response.clone().unwrap_or_default(),
        }
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(DownloadGrant::crd);
        RULES.check(self)
    }
}
