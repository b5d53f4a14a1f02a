use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GrantStatus, Multipart, Terms, UploadConstraints};

/// The permission to write one object for a limited time. By default, the holder can write the object only once.
/// Valet writes a signed URL for exactly this object into a Secret of the same namespace. A pod that mounts the
/// Secret needs only curl.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "valetkey.dev",
    version = "v1alpha1",
    kind = "UploadGrant",
    plural = "uploadgrants",
    shortname = "ug",
    category = "valet",
    namespaced,
    cel,
    status = "GrantStatus",
    derive = "PartialEq",
    doc = "An UploadGrant is the permission to write one object in an object store for a limited time. Valet checks it against the access rules of the store. Then Valet writes a signed URL for exactly this object into a Secret of the same namespace. A pod that mounts the Secret uploads a file with: curl --config /grant/curl.cfg --upload-file FILE",
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
    validation = Rule::new("has(self.constraints) == has(oldSelf.constraints)").message("spec.constraints is immutable and cannot be added or removed; create a new grant"),
    validation = Rule::new("!(has(self.mode) && self.mode == 'PostForm' && self.key.contains('${filename}'))").message("spec.key contains ${filename}; for a POST form, stores replace ${filename} with the name of the uploaded file; choose another object key, or set spec.mode to Put"),
    validation = Rule::new("self.key.endsWith('/') ? has(self.mode) && self.mode in ['PostForm', 'Credentials'] : true").message("spec.key ends with '/' and is therefore a prefix of object keys; set spec.mode to PostForm or Credentials, or name one object, for example 'folder/file'"),
    validation = Rule::new("has(self.multipart) == has(oldSelf.multipart)").message("spec.multipart is immutable and cannot be added or removed; create a new grant"),
    validation = Rule::new("has(self.multipart) ? has(self.mode) && self.mode == 'Multipart' : true").message("spec.multipart is only allowed if spec.mode is Multipart; set spec.mode to Multipart, or remove spec.multipart"),
    validation = Rule::new("has(self.mode) && self.mode == 'Multipart' ? has(self.constraints) && (has(self.constraints.contentLength) || has(self.constraints.contentLengthRange)) : true").message("spec.mode Multipart needs an object size to calculate the number of parts; set spec.constraints.contentLength or spec.constraints.contentLengthRange"),
    validation = Rule::new("has(self.multipart) && has(self.multipart.partSizeBytes) && has(self.constraints) && has(self.constraints.contentLength) ? self.constraints.contentLength <= 500 * self.multipart.partSizeBytes : true").message("an upload of spec.constraints.contentLength bytes would need more than 500 parts; increase spec.multipart.partSizeBytes"),
    validation = Rule::new("has(self.multipart) && has(self.multipart.partSizeBytes) && has(self.constraints) && has(self.constraints.contentLengthRange) ? self.constraints.contentLengthRange.max <= 500 * self.multipart.partSizeBytes : true").message("an upload of spec.constraints.contentLengthRange.max bytes would need more than 500 parts; increase spec.multipart.partSizeBytes"),
    validation = Rule::new("has(oldSelf.revoke) && oldSelf.revoke ? has(self.revoke) && self.revoke : true").message("spec.revoke cannot be set back to false; create a new grant"),
    validation = Rule::new("has(self.expirationSeconds) && has(self.renewal) && has(self.renewal.policy) && self.renewal.policy == 'Always' ? self.expirationSeconds >= 600 : true").message("spec.expirationSeconds must be 600 or more if spec.renewal.policy is 'Always', because the kubelet takes up to two minutes to update a mounted Secret"),
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("spec.secretName cannot be added or removed, because pods could already have mounted the Secret; create a new grant")
)]
pub struct UploadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

    /// How the client uploads the object: Put, PostForm, Multipart, Resumable or Credentials. Put: one PUT request,
    /// for example curl --upload-file; supports write-once; at most 5 GiB. PostForm: an HTML form in a browser, or
    /// curl --form; at most 5 GiB. A form enforces a size range, but it cannot be write-once, so it needs
    /// constraints.overwrite: Allow. If key ends with '/', the form accepts any number of objects below this prefix,
    /// and the constraints apply to each one. Multipart: a large object in several parts; each part has its own
    /// signed URL; at most 2500 GiB. The client sends the parts with upload.sh from the Secret, or with any program
    /// that reads parts.json. Valet completes the multipart upload when all parts have arrived. Use Multipart for
    /// objects of more than about 100 MB. Objects of more than 5 GiB need Multipart. Resumable: a large object on
    /// Google Cloud Storage, in an upload session that survives broken connections. The owner of the store must allow
    /// this mode. The signed URL starts the session. The store then returns the session's address, which accepts data
    /// for a week, even after the signed URL has expired. Resumable cannot enforce a size. Credentials: temporary
    /// credentials for S3 clients instead of a URL. The temporary credentials can write this object any number of
    /// times. If key ends with '/', they can write every object below this prefix. The store needs
    /// credentials.assumeRole and an access rule with credentials: Allow, and the grant needs constraints.overwrite:
    /// Allow. Immutable. Default: Put.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.mode is immutable; create a new grant"))]
    pub mode: UploadMode,

    /// How the object is divided into parts. Allowed only with mode: Multipart. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Multipart")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.multipart is immutable; create a new grant"))]
    pub multipart: Option<Multipart>,

    /// Requirements for the uploaded object. Each constraint becomes part of the signature, and the store enforces
    /// it. If the store cannot enforce a constraint, Valet refuses the grant (CapabilityMissing). Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.constraints is immutable; create a new grant"))]
    pub constraints: Option<UploadConstraints>,
}

/// How the client uploads an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UploadMode {
    #[default]
    #[allow(missing_docs)]
    Put,
    #[allow(missing_docs)]
    PostForm,
    #[allow(missing_docs)]
    Multipart,
    #[allow(missing_docs)]
    Resumable,
    #[allow(missing_docs)]
    Credentials,
}

impl UploadMode {
    /// Returns the name of the mode in specs and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "Put",
            Self::PostForm => "PostForm",
            Self::Multipart => "Multipart",
            Self::Resumable => "Resumable",
            Self::Credentials => "Credentials",
        }
    }
}
