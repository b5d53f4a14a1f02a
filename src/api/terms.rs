use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// What both kinds of grant share: one definition, flattened into both specs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The store that holds the object. Cannot change: a grant for another store is another grant.
    #[x_kube(validation = Rule::new("self == oldSelf").message("storeRef says what the grant permits and cannot change; make a new grant"))]
    pub store_ref: StoreRef,

    /// The object's key in the bucket, whole, as the store will see it: no part of it is filled in. An access
    /// rule of the store must allow it. At most 1024 bytes in UTF-8. It may not start with '/', nor have
    /// an empty ('//'), '.' or '..' segment in any spelling ('%2e' included), nor control characters, since
    /// stores, proxies and clients disagree on what those mean. Only with mode: Credentials, and mode: PostForm for
    /// uploads, may it end with '/': then it stands for every key below it. Cannot change.
    /// Example: tenants/web/users/42/avatar.png
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("key says what the grant permits and cannot change; make a new grant"),
        validation = Rule::new("size(bytes(self)) <= 1024").message("key is longer than 1024 bytes in UTF-8, the most that object stores take; shorten it"),
        validation = Rule::new("!self.startsWith('/') && !self.contains('//')").message("key has an empty segment: it may not start with '/' nor contain '//'; name the object as 'folder/file'"),
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
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$') && timestamp(self).getFullYear() >= 2000 && timestamp(self).getFullYear() < 9999").message("deadlineTime is not an RFC 3339 time with its zone, from 2000 to 9998; write it as 2027-01-31T18:00:00Z, or leave it out for no deadline"))]
    pub deadline_time: Option<Time>,

    /// Whether a new key takes the place of one that comes to its end. Default: it does not; a grant is then one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Not nullable: the apiserver drops a null, and no rule meets one.
    #[schemars(with = "Renewal")]
    pub renewal: Option<Renewal>,

    /// Holds the grant back: while true its key is withdrawn from the Secret and none is signed. Time runs on meanwhile:
    /// the same key comes back with what is left of it, unless it is over. Copies of the URL that somebody has read
    /// work until their end. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub suspend: Option<bool>,

    /// Ends the grant: its key is withdrawn for good, and the grant has finished. Cannot be taken back. Copies of the
    /// URL that somebody has read work until their end; status says when, and what ends them sooner. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub revoke: Option<bool>,

    /// Name of the Secret that receives the key, in the grant's namespace. The Secret must not exist: Valet
    /// never writes into one that it has not made for this grant. Cannot change. Default: the grant's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("secretName cannot change, since pods may have it mounted; make a new grant"),
        validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')").message("secretName is not a valid Secret name: use lower-case letters, digits, '-' and '.', starting and ending with a letter or digit")
    )]
    pub secret_name: Option<String>,

    /// Labels and annotations of your own for the Secret. They may change: what is
    /// added or changed follows, what is removed stays on the Secret; the key stays the same.
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

/// What happens when a key comes to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewal {
    /// Never: the grant is one key. Always: a new key replaces the one in the Secret when a third of its time is left,
    /// until the upload is there (with overwrite: Forbid), or until deadlineTime. A pod that has the Secret mounted as a volume
    /// finds the new one there within a minute or two; the one before works until its own end. Each new key is held
    /// against the store's access rules as they are then. Default: Never.
    #[serde(default)]
    pub policy: RenewalPolicy,
}

/// Whether keys are renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RenewalPolicy {
    #[default]
    #[allow(missing_docs)]
    Never,
    #[allow(missing_docs)]
    Always,
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
        self.ttl_seconds_after_finished
            .map(|ttl| ttl.filter(|seconds| *seconds >= 0))
    }

    /// Whether a new key takes the place of one that comes to its end.
    pub fn renews(&self) -> bool {
        self.renewal.is_some_and(|r| r.policy == RenewalPolicy::Always)
    }

    /// Whether the key stands for everything below it rather than for one object.
    pub fn is_prefix(&self) -> bool {
        self.key.ends_with('/')
    }

    /// Whether the grant is held back for now.
    pub fn is_suspended(&self) -> bool {
        self.suspend == Some(true)
    }

    /// Whether the grant was ended for good.
    pub fn is_revoked(&self) -> bool {
        self.revoke == Some(true)
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
