use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ask, Grant, GrantStatus, Multipart, Operation, Terms, rules::Rules};

/// Permission to write one object for a while, by default once. Valet puts a signed URL for exactly that into a Secret of
/// the grant's namespace; a pod that mounts the Secret needs nothing but curl.
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
    doc = "An UploadGrant is the permission to write one object of an object store, for a while. Valet checks it against the store's access rules and puts a signed URL for exactly that object into a Secret of the same namespace; a pod that mounts the Secret uploads with: curl --config /grant/curl.cfg --upload-file FILE",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "True: the key is there, or the upload has arrived."
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
    validation = Rule::new("has(self.constraints) == has(oldSelf.constraints)").message("constraints say what the grant permits and cannot be added or removed; make a new grant"),
    validation = Rule::new("!(has(self.mode) && self.mode == 'PostForm' && self.key.contains('${filename}'))").message("key contains ${filename}, which stores replace by the name of the file when it comes in a form; name the object otherwise, or use mode: Put"),
    validation = Rule::new("!self.key.endsWith('/') || (has(self.mode) && self.mode in ['PostForm', 'Credentials'])").message("key ends with '/', which stands for everything below it: that takes mode: PostForm or Credentials; name one object as 'folder/file', or set the mode"),
    validation = Rule::new("has(self.multipart) == has(oldSelf.multipart)").message("multipart says how the object is cut and cannot be added or removed; make a new grant"),
    validation = Rule::new("!has(self.multipart) || (has(self.mode) && self.mode == 'Multipart')").message("multipart is for mode: Multipart; set that, or leave multipart out"),
    validation = Rule::new("!(has(self.mode) && self.mode == 'Multipart') || (has(self.constraints) && (has(self.constraints.contentLength) || has(self.constraints.contentLengthRange)))").message("mode: Multipart needs constraints.contentLength or contentLengthRange, which say how many parts there are; set one of them"),
    validation = Rule::new("!(has(self.multipart) && has(self.multipart.partSizeBytes) && has(self.constraints) && has(self.constraints.contentLength)) || self.constraints.contentLength <= 500 * self.multipart.partSizeBytes").message("constraints.contentLength makes more than 500 parts of multipart.partSizeBytes; make the parts larger"),
    validation = Rule::new("!(has(self.multipart) && has(self.multipart.partSizeBytes) && has(self.constraints) && has(self.constraints.contentLengthRange)) || self.constraints.contentLengthRange.max <= 500 * self.multipart.partSizeBytes").message("constraints.contentLengthRange.max makes more than 500 parts of multipart.partSizeBytes; make the parts larger"),
    validation = Rule::new("!(has(oldSelf.revoke) && oldSelf.revoke) || (has(self.revoke) && self.revoke)").message("revoke cannot be taken back; make a new grant"),
    validation = Rule::new("!(has(self.renewal) && has(self.renewal.policy) && self.renewal.policy == 'Always') || !has(self.expirationSeconds) || self.expirationSeconds >= 600").message("renewal.policy Always needs expirationSeconds of at least 600: kubelets take a minute or two to carry a new key to its pods; ask for 600 or more"),
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("secretName cannot be added or removed, since pods may have the Secret mounted; make a new grant")
)]
pub struct UploadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

    /// How the object is uploaded: Put, PostForm, Multipart, Resumable or Credentials. Put: one PUT request, as curl
    /// --upload-file sends it; can be write-once. PostForm: an HTML form of a browser, or curl --form; can be held to a
    /// range of sizes, but cannot be write-once, so it needs constraints.overwrite: Allow; if the key ends with '/', it
    /// takes any number of objects below it, each held to the constraints. Both take at most 5 GiB.
    /// Multipart: a large object in parts, each with a URL of its own, sent by upload.sh from the Secret or by any client
    /// that reads parts.json; up to 2500 GiB; Valet puts the object together when all parts have come. Right from about 100
    /// MB on, and needed above 5 GiB. Resumable, on Google Cloud Storage if the store's owner allows it: a large object in
    /// a session that outlives broken connections. The key starts it; the session's address, which the store answers with,
    /// takes the bytes and works for a week, whatever the key's end. Cannot be held to a size. Credentials, on S3: no URL
    /// but temporary credentials for S3 clients, which can write this one key, or, if the key ends with '/', every key
    /// below it, again and again; the store must have credentials.assumeRole and an access rule with credentials: Allow,
    /// and constraints.overwrite must be Allow. Cannot change. Default: Put.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("mode says what the grant permits and cannot change; make a new grant"))]
    pub mode: UploadMode,

    /// How the object is cut into parts; only with mode: Multipart. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Multipart")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("multipart says how the object is cut and cannot change; make a new grant"))]
    pub multipart: Option<Multipart>,

    /// What the uploaded object must be. Each constraint becomes part of the signature, so that the store
    /// enforces it; one that the store cannot enforce is refused, with the reason. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("constraints say what the grant permits and cannot change; make a new grant"))]
    pub constraints: Option<UploadConstraints>,
}

/// What an uploaded object must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.contentLength) && has(self.contentLengthRange))").message("contentLength and contentLengthRange exclude each other; keep the one that you mean"))]
pub struct UploadConstraints {
    /// The Content-Type that the upload must be sent with, exactly. Example: image/png
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[\\x21-\\x7e][\\x20-\\x7e]*)?$') && !self.endsWith(' ')").message("contentType is not a media type: write it as type/subtype, as in image/png or text/plain; charset=utf-8"))]
    pub content_type: Option<String>,

    /// The exact size of the object, in bytes. A single upload to S3 takes at most 5368709120 (5 GiB), one in parts
    /// 2684354560000 (2500 GiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub content_length: Option<i64>,

    /// The range that the object's size must lie in. Needs mode: PostForm or Multipart, except on Google Cloud Storage, where also
    /// a PUT enforces it. A presigned S3 PUT cannot: a grant that asks for a range there is refused (CapabilityMissing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length_range: Option<LengthRange>,

    /// Base64 of the SHA-256 of the object; the store refuses other bytes. Not with mode: Multipart, where stores keep
    /// checksums of parts only.
    /// Example: the output of: openssl dgst -sha256 -binary FILE | base64
    #[serde(default, rename = "checksumSHA256", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')").message("checksumSHA256 is not the base64 of a SHA-256 (44 characters, ending in '='); use the output of: openssl dgst -sha256 -binary FILE | base64"))]
    pub checksum_sha256: Option<String>,

    /// Base64 of the MD5 of the object; the store refuses other bytes. For Google Cloud Storage, which checks no SHA-256; on S3
    /// checksumSHA256 is better, and both may be given. It holds the key to a file that you have. It does not protect you from who
    /// gave you that file: two files can be made that have one MD5. Only with mode: Put.
    /// Example: the output of: openssl dgst -md5 -binary FILE | base64
    #[serde(default, rename = "checksumMD5", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+/]{21}[AQgw]==$')").message("checksumMD5 is not the base64 of an MD5 (24 characters, ending in '=='); use the output of: openssl dgst -md5 -binary FILE | base64"))]
    pub checksum_md5: Option<String>,

    /// Whether the upload may replace an object that is already there. Forbid: the store refuses it, so the key
    /// works for one successful upload. A form cannot be write-once: with mode: PostForm this must be Allow.
    /// Default: Forbid.
    #[serde(default)]
    pub overwrite: Overwrite,
}

/// A range of sizes in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("contentLengthRange.min is larger than contentLengthRange.max; swap them"))]
pub struct LengthRange {
    /// Smallest size, in bytes. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub min: i64,
    /// Largest size, in bytes.
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub max: i64,
}

/// Whether an upload may replace an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overwrite {
    #[default]
    #[allow(missing_docs)]
    Forbid,
    #[allow(missing_docs)]
    Allow,
}

/// How an object is uploaded.
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
    /// The word in specs and messages.
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

impl Grant for UploadGrant {
    const OPERATION: Operation = Operation::Upload;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn ask(&self) -> Ask {
        Ask::Upload {
            mode: self.spec.mode,
            multipart: self.spec.multipart.unwrap_or_default(),
            constraints: self.spec.constraints.clone().unwrap_or_default(),
        }
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(UploadGrant::crd);
        RULES.check(self)
    }
}
