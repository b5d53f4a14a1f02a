use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

mod azure;
mod choices;
mod credentials;
mod gcs;
mod place;
mod size;
mod status;

pub use azure::{AzureBlobCredentials, AzureBlobStore};
pub use choices::{Permission, RenewalPermission, ShortSessions};
pub use credentials::{AssumeRole, S3Credentials};
pub use gcs::{GcsCredentials, GcsStore, ResumableUploads};
pub use place::Place;
pub use size::ByteSize;
pub use status::{CanaryStatus, StoreStatus};

use super::{Operation, StoreKind, StoreLimits, rules::Rules};

/// A store for the grants of its own namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "valetkey.dev",
    version = "v1alpha1",
    kind = "ObjectStore",
    plural = "objectstores",
    shortname = "ostore",
    category = "valet",
    namespaced,
    cel,
    status = "StoreStatus",
    derive = "PartialEq",
    doc = "An ObjectStore is an object store (a bucket and the credentials for it) that serves the grants of its own namespace. Its credentials Secret lives in the same namespace.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Bucket",
        type_ = "string",
        json_path = ".spec['s3.bucket','azureBlob.container','gcs.bucket']"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        json_path = ".spec['s3.endpoint','azureBlob.endpoint','gcs.endpoint']",
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
    validation = Rule::new("has(self.s3) || has(self.azureBlob) || has(self.gcs)").message("the store says nothing about where it is: set one of s3, azureBlob and gcs"),
    validation = Rule::new("(has(self.s3) ? 1 : 0) + (has(self.azureBlob) ? 1 : 0) + (has(self.gcs) ? 1 : 0) <= 1").message("the store is said to be in several places: keep one of s3, azureBlob and gcs, and make another store for another")
)]
pub struct ObjectStoreSpec {
    /// A store that speaks S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_blob: Option<AzureBlobStore>,

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,

    /// What to do with a grant that asks for a longer life than the credentials that sign have left, sessions as a rule.
    /// Truncate: its key ends with them, and the grant says so (ExpiryTruncated). Refuse: it gets none
    /// (ExpirationTooLong), and is told how much it could ask for. Default: Truncate.
    #[serde(default)]
    pub short_sessions: ShortSessions,

    /// How much of the operator and of the store's keys may be in use at one time. Default: as many keys as are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StoreLimits>,

    /// What grants of this namespace may ask for. A grant needs one rule that allows all of it. Without any
    /// rule, the namespace may do everything that the store can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub access: Vec<AccessRule>,
}

/// A store shared by several namespaces.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "valetkey.dev",
    version = "v1alpha1",
    kind = "ClusterObjectStore",
    plural = "clusterobjectstores",
    shortname = "costore",
    category = "valet",
    cel,
    status = "StoreStatus",
    derive = "PartialEq",
    doc = "A ClusterObjectStore is an object store (a bucket and the credentials for it) that serves the grants of the namespaces that its access rules name. Its credentials Secret lives in the operator's namespace, out of the tenants' reach. Without access rules it grants nothing.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Bucket",
        type_ = "string",
        json_path = ".spec['s3.bucket','azureBlob.container','gcs.bucket']"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        json_path = ".spec['s3.endpoint','azureBlob.endpoint','gcs.endpoint']",
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
    validation = Rule::new("has(self.s3) || has(self.azureBlob) || has(self.gcs)").message("the store says nothing about where it is: set one of s3, azureBlob and gcs"),
    validation = Rule::new("(has(self.s3) ? 1 : 0) + (has(self.azureBlob) ? 1 : 0) + (has(self.gcs) ? 1 : 0) <= 1").message("the store is said to be in several places: keep one of s3, azureBlob and gcs, and make another store for another")
)]
pub struct ClusterObjectStoreSpec {
    /// A store that speaks S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_blob: Option<AzureBlobStore>,

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,

    /// What to do with a grant that asks for a longer life than the credentials that sign have left, sessions as a rule.
    /// Truncate: its key ends with them, and the grant says so (ExpiryTruncated). Refuse: it gets none
    /// (ExpirationTooLong), and is told how much it could ask for. Default: Truncate.
    #[serde(default)]
    pub short_sessions: ShortSessions,

    /// How much of the operator and of the store's keys may be in use at one time. Default: as many keys as are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StoreLimits>,

    /// Who may ask for what. Everything that no rule allows is refused; a grant needs one rule that allows all
    /// of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub access: Vec<ClusterAccessRule>,
}

/// A bucket of Amazon S3 or of a store that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.credentials) || !has(self.credentials.assumeRole) || !has(self.credentials.assumeRole.kmsKeyArn) || self.credentials.assumeRole.kmsKeyArn.contains(':kms:' + self.region + ':')").message("credentials.assumeRole.kmsKeyArn is a key of another region than the bucket's, and S3 takes only keys of the bucket's region"))]
pub struct S3Store {
    /// Name of the bucket. Example: media
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]$')").message("bucket is not a bucket name: 3 to 63 letters, digits, '.', '_' and '-', starting and ending with a letter or digit"))]
    #[x_kube(validation = Rule::new("!self.matches('(?i)--xa?-s3$')").message("bucket is a directory bucket (S3 Express One Zone): those take sessions of five minutes in place of signatures that last, so Valet cannot serve them; use a general purpose bucket"))]
    pub bucket: String,

    /// Region of the bucket; it is part of every signature. Stores that know no regions usually want us-east-1.
    /// Example: eu-west-1
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]+$')").message("region is not a region's name: letters, digits and '-', as in eu-west-1"))]
    pub region: String,

    /// Where the operator reaches the store, and what stands in the signed URLs unless publicEndpoint is set:
    /// scheme, host and port, no path. Default: Amazon's endpoint for the region.
    /// Example: https://s3.internal:9000
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must be scheme, host and port only, as in https://s3.internal:9000: no path, user or query"))]
    pub endpoint: Option<String>,

    /// Scheme, host and port that go into the signed URLs, where workloads reach the store by another name than
    /// the operator does. The host is part of the signature, so it must be the one that clients use.
    /// Default: endpoint. Example: https://s3.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must be scheme, host and port only, as in https://s3.example.com: no path, user or query"))]
    pub public_endpoint: Option<String>,

    /// Where the bucket's name goes: into the host (VirtualHost, as Amazon wants it) or into the path (Path, as
    /// most self-hosted stores want it). Default: VirtualHost.
    #[serde(default)]
    pub addressing_style: AddressingStyle,

    /// The credentials that sign. Absent: the AWS SDK's default chain in the operator's own environment (IRSA,
    /// Pod Identity, environment variables); an ObjectStore may use that only if the operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<S3Credentials>,

    /// What to do if the store obeys x-amz-* headers that are not signed, as MinIO does: with x-amz-copy-source the
    /// holder of an upload key could copy any object that the credentials can read. Refuse: no keys for PUT, unless
    /// credentials.assumeRole confines each of them. Tolerate: you have made sure that the credentials can read
    /// nothing that matters. Amazon S3 refuses such headers. Default: Refuse.
    #[serde(default)]
    pub unsigned_headers: UnsignedHeaders,

    /// The key below which Valet tries the store out: it must be one that the credentials may write, and the
    /// probes leave nothing there. Default: valet-probe
    /// Example: tenants/valet-probe
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$') && !self.matches('(^|/)[.]{1,2}(/|$)')").message("probeKey is not a plain key: letters, digits, '.', '_' and '-', in segments separated by single slashes"))]
    pub probe_key: Option<String>,
}

/// Where the bucket's name goes in a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressingStyle {
    #[default]
    #[allow(missing_docs)]
    VirtualHost,
    #[allow(missing_docs)]
    Path,
}

/// What to do where the store obeys headers that are not signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnsignedHeaders {
    /// Hand out no keys for PUT, unless assumeRole confines each of them.
    #[default]
    Refuse,
    /// Hand them out all the same: the credentials can read nothing that the holder of an upload key may not have.
    Tolerate,
}

/// Names a Secret; the namespace follows from the store's kind and cannot be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What a namespaced store allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// What may be done: Upload, Download. At least one.
    #[schemars(length(min = 1, max = 2))]
    pub operations: Vec<Operation>,

    /// The keys that may be named: those below this prefix, in whole path segments ('a/b' allows 'a/b/c', not
    /// 'a/bc'). '{namespace}' stands for the grant's namespace. Default: every key.
    /// Example: tenants/{namespace}/
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('/') && !self.contains('//')").message("keyPrefix has an empty segment: it may not start with '/' nor contain '//'"),
        validation = Rule::new(r"!self.matches('(^|/)[.]{1,2}(/|$)')").message("keyPrefix has a '.' or '..' segment, which no grant's key can have; write the resolved prefix"),
        validation = Rule::new(r"!self.replace('{namespace}', '').matches('[{}]')").message("keyPrefix knows no variable but {namespace}; remove other braces")
    )]
    pub key_prefix: Option<String>,

    /// The longest lifetime that a grant may ask for, in seconds. Default: what the store can do (S3: 604800).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub max_expiration_seconds: Option<i64>,

    /// The longest time in which a grant may have credentials at all, in seconds from its creation, renewals included. At its end
    /// the last one ends, and the grant is not renewed any more. A grant may ask for no longer expirationSeconds. Where several
    /// rules allow a grant, the largest number counts; a rule without one sets no limit. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub max_total_seconds: Option<i64>,

    /// Whether grants may be renewed: by spec.renewal.policy: Always, or by the annotation valetkey.dev/renew-requested-at. With
    /// Forbid, another expirationSeconds of a grant that has its URL counts from the moment when that was signed.
    /// Default: Allow.
    #[serde(default)]
    pub renewal: RenewalPermission,

    /// Whether grants may have temporary credentials (mode: Credentials) instead of a URL. Those work with any S3 client,
    /// any number of times, for one key or all keys below one; nothing limits how much is uploaded with them, so a
    /// rule with maxBytes or contentTypes allows none. Default: Forbid; an ObjectStore without any rule allows its
    /// own namespace what the store can do.
    #[serde(default)]
    pub credentials: Permission,

    /// The largest upload, in bytes or as a quantity (500k, 64Mi, 5Gi). A grant under such a rule must say the
    /// size of its upload. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("string(self).matches('^[1-9][0-9]{0,17}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$')").message("maxBytes is not a size: write a positive number of bytes or a quantity such as 500k, 64Mi or 5Gi"))]
    pub max_bytes: Option<ByteSize>,

    /// The content types that uploads may have: exact ('image/png') or with a wildcard ('image/*'). A grant under
    /// such a rule must say its content type. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 255)))]
    #[x_kube(validation = Rule::new(r"self.all(t, t.matches('^([*]/[*]|[A-Za-z0-9!#$&^_.+-]+/([*]|[A-Za-z0-9!#$&^_.+-]+))$'))").message("contentTypes takes media types, exact or with a wildcard after the slash: image/png, image/*, */*"))]
    pub content_types: Vec<String>,

    /// How many grants of one namespace may have a key of this store in their Secrets at one time, of both kinds
    /// together and whichever rule allowed them. A grant that comes when so many have one waits (TooManyGrants) until one
    /// of those has ended: the oldest first. Where several rules allow a grant, the largest number counts; a rule without
    /// one sets no limit. Keys that are out stay when the number is lowered. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_live_grants: Option<i64>,
}

/// What a cluster-wide store allows to whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAccessRule {
    /// The namespaces that the rule is for: those that names lists and those whose labels selector matches.
    pub namespaces: Namespaces,

    #[serde(flatten)]
    #[allow(missing_docs)]
    pub rule: AccessRule,
}

/// Chooses namespaces: by name, by label, or both (a namespace needs to match only one of the two).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("namespaces chooses nobody: set names, selector or both (selector: {} chooses every namespace)"))]
pub struct Namespaces {
    /// Names of namespaces, no patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(name, !name.contains('*'))").message("names takes namespaces by their whole names, and no '*'; for every namespace write selector: {} in place of names"))]
    pub names: Vec<String>,
    /// Labels of namespaces. An empty selector chooses every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Both kinds of store, as everything past the API sees them.
pub trait Store:
    kube::Resource<DynamicType = ()>
    + CustomResourceExt
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Which of the two.
    const KIND: StoreKind;
    /// The provider's settings; `None` if the spec names no provider, or several.
    fn place(&self) -> Option<Place>;
    /// How much may be in use at one time.
    fn limits(&self) -> StoreLimits;
    /// The access rules in one form. An [`ObjectStore`] without any allows its own namespace everything.
    fn rules(&self) -> Vec<ClusterAccessRule>;
    /// What to do where its credentials end before a key should.
    fn short_sessions(&self) -> ShortSessions;
    /// The status as last written, if any.
    fn store_status(&self) -> Option<&StoreStatus>;
    /// The same, to shorten what is kept of it.
    fn store_status_mut(&mut self) -> Option<&mut StoreStatus>;
    /// Runs the CRD's own CEL rules here.
    ///
    /// # Errors
    /// One sentence per broken rule, with the field's path first.
    fn check(&self) -> Result<(), Vec<String>>;
}

impl Store for ObjectStore {
    const KIND: StoreKind = StoreKind::ObjectStore;
    fn place(&self) -> Option<Place> {
        let spec = &self.spec;
        Place::only(spec.s3.as_ref(), spec.azure_blob.as_ref(), spec.gcs.as_ref())
    }
    fn limits(&self) -> StoreLimits {
        self.spec.limits.unwrap_or_default()
    }
    fn rules(&self) -> Vec<ClusterAccessRule> {
        let everything = AccessRule {
            operations: vec![Operation::Upload, Operation::Download],
            credentials: Permission::Allow,
            ..AccessRule::default()
        };
        let rules = if self.spec.access.is_empty() {
            vec![everything]
        } else {
            self.spec.access.clone()
        };
        let own = Namespaces {
            names: self.metadata.namespace.iter().cloned().collect(),
            selector: None,
        };
        rules
            .into_iter()
            .map(|rule| ClusterAccessRule {
                namespaces: own.clone(),
                rule,
            })
            .collect()
    }
    fn short_sessions(&self) -> ShortSessions {
        self.spec.short_sessions
    }
    fn store_status(&self) -> Option<&StoreStatus> {
        self.status.as_ref()
    }
    fn store_status_mut(&mut self) -> Option<&mut StoreStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(ObjectStore::crd);
        RULES.check(self)
    }
}

impl Store for ClusterObjectStore {
    const KIND: StoreKind = StoreKind::ClusterObjectStore;
    fn place(&self) -> Option<Place> {
        let spec = &self.spec;
        Place::only(spec.s3.as_ref(), spec.azure_blob.as_ref(), spec.gcs.as_ref())
    }
    fn limits(&self) -> StoreLimits {
        self.spec.limits.unwrap_or_default()
    }
    fn rules(&self) -> Vec<ClusterAccessRule> {
        self.spec.access.clone()
    }
    fn short_sessions(&self) -> ShortSessions {
        self.spec.short_sessions
    }
    fn store_status(&self) -> Option<&StoreStatus> {
        self.status.as_ref()
    }
    fn store_status_mut(&mut self) -> Option<&mut StoreStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(ClusterObjectStore::crd);
        RULES.check(self)
    }
}
