use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::{Operation, rules::Rules};

/// What both kinds of grant share: one definition, flattened into both specs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The store that holds the object. Cannot change: a grant for another store is another grant.
    #[x_kube(validation = Rule::new("self == oldSelf").message("storeRef says what the grant permits and cannot change; make a new grant"))]
    pub store_ref: StoreRef,

    /// The object's key in the bucket, whole, as the store will see it: no part of it is filled in. An access
    /// rule of the store must allow it. At most 1024 bytes in UTF-8. It may not start or end with '/', nor have
    /// an empty ('//'), '.' or '..' segment in any spelling ('%2e' included), nor control characters, since
    /// stores, proxies and clients disagree on what those mean. Cannot change.
    /// Example: tenants/web/users/42/avatar.png
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("key says what the grant permits and cannot change; make a new grant"),
        validation = Rule::new("size(bytes(self)) <= 1024").message("key is longer than 1024 bytes in UTF-8, the most that object stores take; shorten it"),
        validation = Rule::new("!self.startsWith('/') && !self.endsWith('/') && !self.contains('//')").message("key has an empty segment: it may not start or end with '/' nor contain '//'; name the object as 'folder/file'"),
        validation = Rule::new(r"!self.matches('(^|[/\\\\]|%(25)*(2[fF]|5[cC]))([.]|%(25)*2[eE]){1,2}([/\\\\]|%(25)*(2[fF]|5[cC])|$)')").message("key has a '.' or '..' segment (or one of its percent-encoded spellings), which clients and stores resolve differently; write the resolved key"),
        validation = Rule::new(r"!self.matches('[\\p{Cc}\\p{Zl}\\p{Zp}\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}\\x{FEFF}\\x{FFFE}\\x{FFFF}]')").message("key has a control, line separator or text direction character; remove it (percent-encode it in the name if you must keep it)")
    )]
    pub key: String,

    /// How long the key works, in seconds from the moment it is signed. The store's rules may allow less (then
    /// the grant is refused, with the number that they allow). From 1 to 604800 (7 days, the longest that S3
    /// signs for). Below 120, differences between clocks can use the time up. Changing it on a grant that has
    /// its key replaces the key with a new one. Default: 3600.
    #[serde(default = "default_expiration")]
    #[schemars(range(min = 1, max = 604_800))]
    pub expiration_seconds: i64,

    /// The moment after which no key works, whatever expirationSeconds says: a grant that is created again
    /// after it, by a GitOps tool for instance, never gets a key. RFC 3339. Default: none.
    /// Example: 2027-01-31T18:00:00Z
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // No `format: date-time`: the apiserver takes times without a zone for one, which mean nothing in particular.
    #[schemars(with = "Option<String>", length(max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$') && timestamp(self).getFullYear() >= 2000").message("deadlineTime is not an RFC 3339 time with its zone; write it as 2027-01-31T18:00:00Z"))]
    pub deadline_time: Option<Time>,

    /// Name of the Secret that receives the key, in the grant's namespace. The Secret must not exist: Valet
    /// never writes into one that it has not made for this grant. Cannot change. Default: the grant's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("secretName cannot change, since pods may have it mounted; make a new grant"),
        validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')").message("secretName is not a valid Secret name: use lower-case letters, digits, '-' and '.', starting and ending with a letter or digit")
    )]
    pub secret_name: Option<String>,

    /// Labels and annotations of your own for the Secret. They may change: the Secret follows, the key stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,

    /// How long the grant itself is kept after it has finished (key expired or upload completed), in seconds;
    /// then it is deleted. -1 keeps it for good; so does null, which kubectl apply drops on the way, however.
    /// Default: what the operator was started with (3600); but a grant that Argo CD or Flux tracks is kept, since
    /// they would only make it again, with a new key.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = -1, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<Option<i64>>,
}

fn default_expiration() -> i64 {
    3600
}

/// Tells a field that is `null` from one that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Names a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// ObjectStore (in the grant's own namespace) or ClusterObjectStore. Default: ObjectStore.
    #[serde(default)]
    pub kind: StoreKind,
    /// Name of the store.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl Terms {
    /// Seconds for which the finished grant is kept, if the spec says: `Some(None)` keeps it for good.
    pub fn retention(&self) -> Option<Option<i64>> {
        self.ttl_seconds_after_finished.map(|ttl| ttl.filter(|seconds| *seconds >= 0))
    }
}

impl std::fmt::Display for StoreRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StoreKind {
    #[default]
    #[allow(missing_docs)]
    ObjectStore,
    #[allow(missing_docs)]
    ClusterObjectStore,
}

impl StoreKind {
    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObjectStore => "ObjectStore",
            Self::ClusterObjectStore => "ClusterObjectStore",
        }
    }
}

/// Metadata of the tenant's own for the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Labels to put on the Secret. Valet's own (app.kubernetes.io/managed-by, valetkey.dev/...) cannot be set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(
        validation = Rule::new("self.all(k, k != 'app.kubernetes.io/managed-by' && !k.startsWith('valetkey.dev/'))").message("secretTemplate.labels may not set app.kubernetes.io/managed-by nor anything under valetkey.dev/: Valet sets those; remove them"),
        validation = Rule::new(r"self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))").message("secretTemplate.labels has a key or value that is not a valid label: use letters, digits, '-', '_' and '.', at most 63 characters, starting and ending with a letter or digit")
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations to put on the Secret. Those under valetkey.dev/ cannot be set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(
        validation = Rule::new("self.all(k, !k.startsWith('valetkey.dev/'))").message("secretTemplate.annotations may not set anything under valetkey.dev/: Valet sets those; remove them"),
        validation = Rule::new(r"self.all(k, k.matches('^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))").message("secretTemplate.annotations has a key that is not a valid annotation name: use letters, digits, '-', '_' and '.', at most 63 characters after an optional 'domain/'")
    )]
    pub annotations: BTreeMap<String, String>,
}

fn string_map(value_length: u32) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": value_length},
    })
}

fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    string_map(63)
}

fn annotation_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    string_map(4096)
}

/// Permission to write one object, once, for a while. Valet puts a signed URL for exactly that into a Secret of
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
        json_path = ".status.expirationTime",
        description = "When the key stops working."
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
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("secretName cannot be added or removed, since pods may have the Secret mounted; make a new grant")
)]
pub struct UploadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

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

    /// The exact size of the object, in bytes. A single upload to S3 takes at most 5368709120 (5 GiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub content_length: Option<i64>,

    /// The range that the object's size must lie in. A presigned S3 PUT cannot enforce a range: a grant that
    /// asks for one there is refused (CapabilityMissing); give contentLength instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length_range: Option<LengthRange>,

    /// Base64 of the SHA-256 of the object; the store refuses other bytes.
    /// Example: the output of: openssl dgst -sha256 -binary FILE | base64
    #[serde(default, rename = "checksumSHA256", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')").message("checksumSHA256 is not the base64 of a SHA-256 (44 characters, ending in '='); use the output of: openssl dgst -sha256 -binary FILE | base64"))]
    pub checksum_sha256: Option<String>,

    /// Whether the upload may replace an object that is already there. Forbid: the store refuses it, so the key
    /// works for one successful upload. Default: Forbid.
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
        json_path = ".status.expirationTime",
        description = "When the key stops working."
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
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("secretName cannot be added or removed, since pods may have the Secret mounted; make a new grant")
)]
pub struct DownloadGrantSpec {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub terms: Terms,

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

/// What has become of a grant. Written by Valet; a projection of the Secret and the store, never read as authority
/// over what may be signed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the summary that kubectl wait, Helm, Argo CD and Flux read. Active: the key can be used now.
    /// Completed: the upload was seen in the store. Reconciling and Stalled: for kstatus, only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// When the key was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_time: Option<Time>,
    /// When the key stops working: the least of what was asked, what the store allows and when the signing
    /// credentials end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// When the grant had done its work; it is deleted ttlSecondsAfterFinished later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<Time>,
    /// The Secret that holds the key while it works (Service Binding's status.binding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The uploaded object, as the store described it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObservedObject>,
}

/// Names the Secret that holds a key, as Service Binding's Provisioned Service does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// Name of the Secret.
    pub name: String,
}

/// An object as the store described it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedObject {
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The entity tag, as the store gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_tag: Option<String>,
    /// Base64 of the SHA-256, where the store keeps one.
    #[serde(default, rename = "checksumSHA256", skip_serializing_if = "Option::is_none")]
    pub checksum_sha256: Option<String>,
    /// The version, in a bucket that keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the store received the object, by its own clock (whole seconds on S3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified_time: Option<Time>,
}

/// The schema of conditions: a list that several writers can share, keyed by type.
pub(super) fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema
}

/// What the holder of the key may do, beyond the terms that both kinds share.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Write the object.
    Upload(UploadConstraints),
    /// Read the object.
    Download {
        /// Which version; absent: the newest.
        version: Option<String>,
        /// What to answer with.
        response: ResponseHeaders,
    },
}

impl Ask {
    /// The operation that access rules speak of.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Upload(_) => Operation::Upload,
            Self::Download { .. } => Operation::Download,
        }
    }
}

/// Both kinds of grant, as everything past the API sees them: one path for both.
pub trait Grant:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + CustomResourceExt
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The kind's operation.
    const OPERATION: Operation;
    /// What both kinds share.
    fn terms(&self) -> &Terms;
    /// What the kinds differ in.
    fn ask(&self) -> Ask;
    /// The status as last written, if any.
    fn grant_status(&self) -> Option<&GrantStatus>;
    /// Runs the CRD's own CEL rules here.
    ///
    /// # Errors
    /// One sentence per broken rule, with the field's path first.
    fn check(&self) -> Result<(), Vec<String>>;
}

impl Grant for UploadGrant {
    const OPERATION: Operation = Operation::Upload;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn ask(&self) -> Ask {
        Ask::Upload(self.spec.constraints.clone().unwrap_or_default())
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(|| UploadGrant::crd());
        RULES.check(self)
    }
}

impl Grant for DownloadGrant {
    const OPERATION: Operation = Operation::Download;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn ask(&self) -> Ask {
        Ask::Download {
            version: self.spec.version.clone(),
            response: self.spec.response.clone().unwrap_or_default(),
        }
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(|| DownloadGrant::crd());
        RULES.check(self)
    }
}
