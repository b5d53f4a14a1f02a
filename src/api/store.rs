//! The kinds ObjectStore and ClusterObjectStore. The settings of each provider are in a separate module.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub mod azure;
mod choices;
mod common;
pub mod gcs;
pub mod s3;
mod size;
mod status;

pub use choices::{Permission, RenewalPermission, ShortSessions};
pub use common::{AddressingStyle, SecretRef, UnsignedHeaders};
pub use size::ByteSize;
pub use status::{ConformanceCheckStatus, StoreStatus};

use azure::AzureBlobStore;
use gcs::GcsStore;
use s3::S3Store;

use super::{Operation, StoreKind, StoreLimits, rules::Rules};

/// A store that serves the grants of its own namespace.
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
    doc = "An ObjectStore describes a bucket and the credentials for this bucket. An ObjectStore serves the grants of its own namespace. Its credentials Secret is in the same namespace. Without access rules, the namespace can use everything that the store supports.",
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
    validation = Rule::new("has(self.s3) || has(self.azureBlob) || has(self.gcs)").message("the store has no provider; set exactly one of spec.s3, spec.azureBlob and spec.gcs"),
    validation = Rule::new("(has(self.s3) ? 1 : 0) + (has(self.azureBlob) ? 1 : 0) + (has(self.gcs) ? 1 : 0) <= 1").message("the store has several providers; keep only one of spec.s3, spec.azureBlob and spec.gcs, and create a separate store for each other provider")
)]
pub struct ObjectStoreSpec {
    /// A bucket of Amazon S3 or of an S3-compatible store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_blob: Option<AzureBlobStore>,

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,

    /// What Valet does with a grant that asks for a longer lifetime than the signing credentials have left. This
    /// happens with session credentials. Truncate: Valet issues a credential that expires with the signing
    /// credentials, and the grant has the reason ExpiryTruncated. Refuse: Valet issues no credential. The grant has
    /// the reason ExpirationTooLong, and the message contains the longest possible lifetime. Default: Truncate.
    #[serde(default)]
    pub short_sessions: ShortSessions,

    /// Limits on the number of live grants, and on the number of reconciles that wait for this store at the same
    /// time. Default: no limit on live grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StoreLimits>,

    /// Access rules for the grants of this namespace. One rule must allow everything that a grant asks for. Without
    /// rules, the namespace may use everything that the store supports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub access: Vec<AccessRule>,
}

/// A store that several namespaces share.
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
    doc = "A ClusterObjectStore describes a bucket and the credentials for this bucket. A ClusterObjectStore serves the grants of the namespaces in its access rules. Its credentials Secret is in the operator's namespace, where tenants cannot read the Secret. Without access rules, a ClusterObjectStore allows nothing.",
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
    validation = Rule::new("has(self.s3) || has(self.azureBlob) || has(self.gcs)").message("the store has no provider; set exactly one of spec.s3, spec.azureBlob and spec.gcs"),
    validation = Rule::new("(has(self.s3) ? 1 : 0) + (has(self.azureBlob) ? 1 : 0) + (has(self.gcs) ? 1 : 0) <= 1").message("the store has several providers; keep only one of spec.s3, spec.azureBlob and spec.gcs, and create a separate store for each other provider")
)]
pub struct ClusterObjectStoreSpec {
    /// A bucket of Amazon S3 or of an S3-compatible store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_blob: Option<AzureBlobStore>,

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,

    /// What Valet does with a grant that asks for a longer lifetime than the signing credentials have left. This
    /// happens with session credentials. Truncate: Valet issues a credential that expires with the signing
    /// credentials, and the grant has the reason ExpiryTruncated. Refuse: Valet issues no credential. The grant has
    /// the reason ExpirationTooLong, and the message contains the longest possible lifetime. Default: Truncate.
    #[serde(default)]
    pub short_sessions: ShortSessions,

    /// Limits on the number of live grants, and on the number of reconciles that wait for this store at the same
    /// time. Default: no limit on live grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StoreLimits>,

    /// The access rules say which namespaces may use the store, and what they may do. One rule must allow everything
    /// that a grant asks for. Otherwise Valet refuses the grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub access: Vec<ClusterAccessRule>,
}

/// The settings of the provider that a store uses. A store uses exactly one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderConfig {
    /// The store is Amazon S3 or an S3-compatible store.
    S3(Box<S3Store>),
    /// The store is Azure Blob Storage.
    AzureBlob(Box<AzureBlobStore>),
    /// The store is Google Cloud Storage.
    Gcs(Box<GcsStore>),
}

impl ProviderConfig {
    /// Returns the settings of the only provider that is set. Returns `None` if the spec has no provider or more than
    /// one.
    fn only(s3: Option<&S3Store>, azure_blob: Option<&AzureBlobStore>, gcs: Option<&GcsStore>) -> Option<Self> {
        let all = [
            s3.map(|store| Self::S3(Box::new(store.clone()))),
            azure_blob.map(|store| Self::AzureBlob(Box::new(store.clone()))),
            gcs.map(|store| Self::Gcs(Box::new(store.clone()))),
        ];
        let mut set = all.into_iter().flatten();
        let first = set.next()?;
        set.next().is_none().then_some(first)
    }
}

/// What a rule of an ObjectStore allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// The allowed operations: Upload, Download, or both.
    #[schemars(length(min = 1, max = 2))]
    pub operations: Vec<Operation>,

    /// The prefix of the allowed object keys. It consists of whole path segments: 'a/b' allows 'a/b/c', but not
    /// 'a/bc'. '{namespace}' stands for the namespace of the grant and is the only variable. Default: every object
    /// key.
    /// Example: tenants/{namespace}/
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('/') && !self.contains('//')").message("keyPrefix has an empty segment, because keyPrefix starts with '/' or contains '//'; remove the extra slash"),
        validation = Rule::new(r"!self.matches('(^|/)[.]{1,2}(/|$)')").message("keyPrefix has a '.' or '..' segment, but the object key of a grant cannot have such a segment; write the prefix without '.' and '..' segments"),
        validation = Rule::new(r"!self.replace('{namespace}', '').matches('[{}]')").message("keyPrefix contains '{' or '}' outside the variable {namespace}; Valet knows no other variable; remove the other braces")
    )]
    pub key_prefix: Option<String>,

    /// The longest lifetime (expirationSeconds) that a grant may ask for, in seconds. Default: the maximum of the
    /// store (S3: 604800).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub max_expiration_seconds: Option<i64>,

    /// The longest time in which a grant may have credentials, in seconds from its creation, including renewals. The
    /// last credential expires at the end of this time, and Valet does not renew it. expirationSeconds of a grant
    /// must not be longer. If several rules allow a grant, the largest number applies. A rule without this field sets
    /// no limit. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub max_total_seconds: Option<i64>,

    /// Whether grants may renew their credential, with spec.renewal.policy: Always or with the annotation
    /// valetkey.dev/renew-requested-at. With Forbid, a user can still change expirationSeconds, but the new lifetime
    /// begins at the time when Valet issued the first credential. Default: Allow.
    #[serde(default)]
    pub renewal: RenewalPermission,

    /// Whether grants may get temporary credentials (mode: Credentials) instead of a URL. Temporary credentials work
    /// with any S3 client, any number of times, for one object key or for every object key below a prefix. Temporary
    /// credentials cannot limit the size or type of uploads. Therefore a rule with maxBytes or contentTypes never
    /// allows them for uploads. Default: Forbid. An ObjectStore without rules allows temporary credentials.
    #[serde(default)]
    pub credentials: Permission,

    /// The largest upload, in bytes or as a quantity (500k, 64Mi, 5Gi). If this field is set, a grant must state the
    /// size of its upload. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("string(self).matches('^[1-9][0-9]{0,17}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$')").message("maxBytes is not a valid size; write a positive number of bytes or a quantity such as 500k, 64Mi or 5Gi"))]
    pub max_bytes: Option<ByteSize>,

    /// The allowed content types of uploads, exact ('image/png') or with a wildcard ('image/*'). If this field is
    /// set, a grant must state its content type. Default: any type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 255)))]
    #[x_kube(validation = Rule::new(r"self.all(t, t.matches('^([*]/[*]|[A-Za-z0-9!#$&^_.+-]+/([*]|[A-Za-z0-9!#$&^_.+-]+))$'))").message("contentTypes has an entry that is not a media type; write an exact type such as image/png, or a wildcard such as image/* or */*"))]
    pub content_types: Vec<String>,

    /// The largest number of live grants of one namespace on this store. A live grant has a credential in its Secret.
    /// UploadGrants and DownloadGrants count together, whichever rule allowed them. A grant over the limit waits
    /// (TooManyGrants) until a live grant ends; the oldest waiting grant is next. If several rules allow a grant, the
    /// largest number applies. A rule without this field sets no limit. A lower number does not end live grants.
    /// Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_live_grants: Option<i64>,
}

/// What a rule of a ClusterObjectStore allows, and for which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAccessRule {
    /// The namespaces to which the rule applies: the namespaces in names, and the namespaces whose labels match
    /// selector.
    pub namespaces: Namespaces,

    #[serde(flatten)]
    #[allow(missing_docs)]
    pub rule: AccessRule,
}

/// Selects namespaces by name, by labels, or by both. The rule applies to a namespace if its name is in names or its
/// labels match selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("the field namespaces has neither names nor selector; set namespaces.names, namespaces.selector or both; an empty selector ({}) selects every namespace"))]
pub struct Namespaces {
    /// Full names of namespaces, without patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(name, !name.contains('*'))").message("namespaces.names must contain full namespace names without '*'; to select every namespace, set namespaces.selector to {} instead of namespaces.names"))]
    pub names: Vec<String>,
    /// A label selector for namespaces. An empty selector ({}) selects every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A common interface of ObjectStore and ClusterObjectStore. The modules outside `api` use only this interface.
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
    /// This is the kind of the store.
    const KIND: StoreKind;
    /// Returns the settings of the provider. Returns `None` if the spec has no provider or more than one.
    fn place(&self) -> Option<ProviderConfig>;
    /// Returns the limits on the use of the store.
    fn limits(&self) -> StoreLimits;
    /// Returns the access rules of an ObjectStore or a ClusterObjectStore in one form. If an [`ObjectStore`] has no
    /// access rules, its own namespace can use everything that the store supports.
    fn rules(&self) -> Vec<ClusterAccessRule>;
    /// Returns what Valet does with a grant that asks for a longer lifetime than the signing credentials have left.
    fn short_sessions(&self) -> ShortSessions;
    /// Returns the status of the store, or `None` if nobody has written a status yet.
    fn store_status(&self) -> Option<&StoreStatus>;
    /// Returns a mutable reference to the status. Valet needs it to make its watch cache smaller: it removes unneeded
    /// status fields from each cached store.
    fn store_status_mut(&mut self) -> Option<&mut StoreStatus>;
    /// Runs the CEL rules of the CRD in this process.
    ///
    /// # Errors
    /// Returns one sentence for each broken rule. A sentence begins with the path of the field.
    fn check(&self) -> Result<(), Vec<String>>;
}

impl Store for ObjectStore {
    const KIND: StoreKind = StoreKind::ObjectStore;
    fn place(&self) -> Option<ProviderConfig> {
        let spec = &self.spec;
        ProviderConfig::only(spec.s3.as_ref(), spec.azure_blob.as_ref(), spec.gcs.as_ref())
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
    fn place(&self) -> Option<ProviderConfig> {
        let spec = &self.spec;
        ProviderConfig::only(spec.s3.as_ref(), spec.azure_blob.as_ref(), spec.gcs.as_ref())
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
