use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The fields that both kinds of grant share. The spec of each kind contains these fields directly
/// (`serde(flatten)`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The store that contains the object. Immutable: for another store, create another grant.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.storeRef is immutable; create a new grant"))]
    pub store_ref: StoreRef,

    /// The complete name of the object in the bucket (the object key). Valet uses it without changes and replaces no
    /// variables. An access rule of the store must allow the object key. It has at most 1024 bytes in UTF-8. It must
    /// not start with '/'. It must not have an empty segment ('//'), or a '.' or '..' segment in any encoding ('%2e'
    /// included). It must not contain control characters. Stores, proxies and clients interpret such object keys
    /// differently. A key that ends with '/' is a prefix: the grant is then valid for every object key below it. A
    /// prefix needs mode: Credentials, or for uploads mode: PostForm. Immutable.
    /// Example: tenants/web/users/42/avatar.png
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("the object key is immutable; create a new grant"),
        validation = Rule::new("size(bytes(self)) <= 1024").message("the object key is longer than 1024 bytes in UTF-8, the limit of object stores; shorten the object key"),
        validation = Rule::new("!self.startsWith('/') && !self.contains('//')").message("the object key has an empty segment, because the object key starts with '/' or contains '//'; remove the extra slash"),
        validation = Rule::new(r"!self.matches('(^|[/\\\\]|%(25)*(2[fF]|5[cC]))([.]|%(25)*2[eE]){1,2}([/\\\\]|%(25)*(2[fF]|5[cC])|$)')").message("the object key has a '.' or '..' segment, possibly percent-encoded; clients and stores resolve such segments differently; write the object key without these segments"),
        validation = Rule::new(r"!self.matches('[\\p{Cc}\\p{Zl}\\p{Zp}\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}\\x{FEFF}\\x{FFFE}\\x{FFFF}]')").message("the object key has a control, line separator or text direction character; remove the character, or percent-encode the character")
    )]
    pub key: String,

    /// The lifetime of the credential in seconds, from the moment when Valet issues it. From 1 to 604800 (7 days, the
    /// maximum of S3 signatures). If the access rules allow less, Valet refuses the grant, and the condition Ready
    /// contains the allowed maximum. This also applies to the default. With less than 120 seconds, differences
    /// between clocks can use up the lifetime. If you change this field after the credential was issued, Valet
    /// replaces the credential. Default: 3600.
    #[serde(default = "default_expiration")]
    #[schemars(range(min = 1, max = 604_800))]
    pub expiration_seconds: i64,

    /// The time after which no credential of this grant works, even if expirationSeconds asks for a longer lifetime.
    /// A grant that is created again after this time, for example by a GitOps tool, gets no credential. The format is
    /// RFC 3339 with a time zone. Default: no deadline.
    /// Example: 2027-01-31T18:00:00Z
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The schema does not set `format: date-time`, because the apiserver would then accept ambiguous times without a
    // time zone.
    #[schemars(with = "Option<String>", length(max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$') && timestamp(self).getFullYear() >= 2000 && timestamp(self).getFullYear() < 9999").message("spec.deadlineTime is not an RFC 3339 time with a time zone and a year from 2000 to 9998; use the form 2027-01-31T18:00:00Z, or remove spec.deadlineTime"))]
    pub deadline_time: Option<Time>,

    /// Whether Valet renews the credential before it expires. Default: no renewal; the grant gets one credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The schema does not mark this field as nullable. Therefore the apiserver drops a null value, and CEL rules
    // never see null.
    #[schemars(with = "Renewal")]
    pub renewal: Option<Renewal>,

    /// Suspends the grant. While suspend is true, Valet deletes the Secret and issues no credential. The lifetime of
    /// the credential continues to run. When suspend is false again, Valet restores the same credential, unless it
    /// has expired. A copy of the credential that somebody made earlier works until the credential expires. Default:
    /// false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub suspend: Option<bool>,

    /// Ends the grant. Valet deletes the Secret permanently, and the grant is finished. This cannot be undone. A copy
    /// of the credential that somebody made earlier works until the credential expires. The condition Ready shows the
    /// expiry time, and how the owner of the store can invalidate copies earlier. With mode: Multipart, Valet aborts
    /// the upload, and copies of the part URLs stop working. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub revoke: Option<bool>,

    /// Name of the Secret for the credential, in the grant's namespace. A Secret with this name must not exist yet,
    /// because Valet writes only Secrets that it created for this grant. An UploadGrant and a DownloadGrant with the
    /// same name need different Secret names. Immutable. Default: the name of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("spec.secretName is immutable, because pods could already have mounted the Secret; create a new grant"),
        validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')").message("secretName is not a valid Secret name: use lower-case letters, digits, '-' and '.', and start and end with a letter or digit")
    )]
    pub secret_name: Option<String>,

    /// Additional labels and annotations for the Secret. If you add or change a label or annotation here, Valet
    /// updates the Secret, and the credential stays the same. If you remove a label or annotation here, it stays on
    /// the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,

    /// How long Valet keeps the grant after it has finished (expired, completed or revoked), in seconds. Then Valet
    /// deletes the grant. -1 keeps the grant forever. null also keeps the grant forever, but kubectl apply drops null
    /// values. Default: --ttl-seconds-after-finished of the operator (3600). Without a value, Valet keeps a grant
    /// that Argo CD or Flux tracks, because these tools would create it again with a new credential.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = -1, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<Option<i64>>,
}

fn default_expiration() -> i64 {
    3600
}

/// Distinguishes a field that is `null` from a field that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Whether Valet renews the credential before it expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Never: the grant gets one credential. Always: when a third of the lifetime is left, Valet replaces the
    /// credential in the same Secret. Renewal ends at deadlineTime, at the limit of an access rule, or for uploads
    /// with overwrite: Forbid when the object arrives. A pod that mounts the Secret as a volume sees the new
    /// credential within a minute or two. The old credential works until it expires. Valet checks the access rules
    /// again at each renewal. Default: Never.
    #[serde(default)]
    pub policy: RenewalPolicy,
}

/// Whether Valet renews credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RenewalPolicy {
    #[default]
    #[allow(missing_docs)]
    Never,
    #[allow(missing_docs)]
    Always,
}

/// A reference to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// Kind of the store: ObjectStore (in the namespace of the grant) or ClusterObjectStore (shared by namespaces).
    /// Default: ObjectStore.
    #[serde(default)]
    pub kind: StoreKind,
    /// Name of the store.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl Terms {
    /// Returns the number of seconds for which Valet keeps the finished grant. `None` means that the spec contains no
    /// value. `Some(None)` means that Valet keeps the grant forever.
    pub fn retention(&self) -> Option<Option<i64>> {
        self.ttl_seconds_after_finished
            .map(|ttl| ttl.filter(|seconds| *seconds >= 0))
    }

    /// Returns true if Valet renews the credential before it expires.
    pub fn renews(&self) -> bool {
        self.renewal.is_some_and(|r| r.policy == RenewalPolicy::Always)
    }

    /// Returns true if `spec.key` is a prefix. The grant is then valid for every object key that begins with this
    /// prefix.
    pub fn is_prefix(&self) -> bool {
        self.key.ends_with('/')
    }

    /// Returns true if the grant is suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspend == Some(true)
    }

    /// Returns true if the grant is revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoke == Some(true)
    }
}

impl std::fmt::Display for StoreRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The two kinds of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StoreKind {
    #[default]
    #[allow(missing_docs)]
    ObjectStore,
    #[allow(missing_docs)]
    ClusterObjectStore,
}

impl StoreKind {
    /// Returns the name of the kind of store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObjectStore => "ObjectStore",
            Self::ClusterObjectStore => "ClusterObjectStore",
        }
    }
}

/// Labels and annotations that a grant adds to its Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Labels for the Secret. You cannot set Valet's own labels (app.kubernetes.io/managed-by and valetkey.dev/...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    #[x_kube(
        validation = Rule::new("self.all(k, k != 'app.kubernetes.io/managed-by' && !k.startsWith('valetkey.dev/'))").message("secretTemplate.labels must not set app.kubernetes.io/managed-by or a label under valetkey.dev/, because Valet sets these labels; remove these labels"),
        validation = Rule::new(r"self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))").message("secretTemplate.labels has an invalid label name or value: use letters, digits, '-', '_' and '.', at most 63 characters, and start and end with a letter or digit")
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the Secret. You cannot set Valet's own annotations (valetkey.dev/...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_map")]
    #[x_kube(
        validation = Rule::new("self.all(k, !k.startsWith('valetkey.dev/'))").message("secretTemplate.annotations must not set an annotation under valetkey.dev/, because Valet sets these annotations; remove these annotations"),
        validation = Rule::new(r"self.all(k, k.matches('^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))").message("secretTemplate.annotations has an invalid annotation name; after an optional domain and '/', use at most 63 letters, digits, '-', '_' and '.'")
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
