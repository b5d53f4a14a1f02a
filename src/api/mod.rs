//! The API types: custom resources, status, reasons and annotation names. This module imports no other module of
//! Valet.
//!
//! The doc comments of custom resource fields are user documentation, because `kubectl explain` prints them.

// Each printer column sets `type_`, and clippy reports the repeated attribute as a mistake.
#![allow(clippy::duplicated_attributes)]

mod bounds;
mod capability;
mod condition;
mod download;
mod grant;
mod limits;
mod multipart;
mod observed;
mod printable;
mod reason;
mod rules;
mod status;
mod store;
mod terms;
mod upload;

pub use capability::{Capabilities, Capability, Remedies};
pub use condition::{ConditionType, set_condition, set_ready};
pub use download::{DownloadGrant, DownloadGrantSpec, DownloadMode, ResponseHeaders};
pub use grant::{Ask, Grant};
pub use limits::StoreLimits;
pub use multipart::{MAX_PARTS, MIB, Multipart, Part, Parts};
pub use observed::{ObservedObject, is_entity_tag, is_media_type};
pub use printable::{MAX_MESSAGE_BYTES, printable};
pub use reason::{Progress, Reason};
pub use status::{Binding, GrantStatus};
pub use store::{
    AccessRule, AddressingStyle, AssumeRole, AzureBlobCredentials, AzureBlobStore, ByteSize, CanaryStatus,
    ClusterAccessRule, ClusterObjectStore, ClusterObjectStoreSpec, GcsCredentials, GcsStore, Namespaces, ObjectStore,
    ObjectStoreSpec, Permission, ProviderConfig, RenewalPermission, ResumableUploads, S3Credentials, S3Store,
    SecretRef, ShortSessions, Store, StoreStatus, UnsignedHeaders,
};
pub use terms::{Renewal, RenewalPolicy, SecretTemplate, StoreKind, StoreRef, Terms};
pub use upload::{LengthRange, Overwrite, UploadConstraints, UploadGrant, UploadGrantSpec, UploadMode};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of all custom resources.
pub const GROUP: &str = "valetkey.dev";
/// The only served API version.
pub const VERSION: &str = "v1alpha1";

/// The `type` of every grant Secret.
pub const SECRET_TYPE: &str = "valetkey.dev/grant";
/// The `type` of the Secret with the operator's HMAC key for record signatures.
pub const RECORD_KEY_TYPE: &str = "valetkey.dev/record-key";
/// The name of the Secret with the HMAC key for record signatures, in the operator's namespace.
pub const RECORD_KEY_NAME: &str = "valet-record-key";
/// The label of every grant Secret. Its value is [`MANAGED_BY_VALUE`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY_VALUE: &str = "valet";

/// The finalizer of a grant with a multipart upload. It keeps the grant until the multipart upload is completed or
/// aborted, because uploaded parts stay in the store until then.
pub const MULTIPART_FINALIZER: &str = "valetkey.dev/multipart";

/// Names of annotations. Most of them are on grant Secrets.
pub mod annotation {
    /// When Valet issued the credential (RFC 3339, whole seconds).
    pub const ISSUED_AT: &str = "valetkey.dev/issued-at";
    /// When the credential expires (RFC 3339, whole seconds): the earliest of the requested expiry, the limits of the
    /// store, and the expiry of the signing credentials.
    pub const EXPIRES_AT: &str = "valetkey.dev/expires-at";
    /// The UID of the grant.
    pub const GRANT_UID: &str = "valetkey.dev/grant-uid";
    /// The `metadata.generation` of the grant when Valet last wrote the Secret.
    pub const GRANT_GENERATION: &str = "valetkey.dev/grant-generation";
    /// The store, as `Kind/name`.
    pub const STORE: &str = "valetkey.dev/store";
    /// The requested lifetime in seconds. If the grant then asks for another lifetime, Valet issues a new credential.
    pub const EXPIRATION_SECONDS: &str = "valetkey.dev/expiration-seconds";
    /// A fingerprint of the bucket, its address and the long-lived store credentials that signed the credential. When
    /// the fingerprint of the store changes, Valet signs the credential again.
    pub const SIGNED_WITH: &str = "valetkey.dev/signed-with";
    /// How many credentials the grant had before this one. Absent for the first credential.
    pub const RENEWALS: &str = "valetkey.dev/renewals";
    /// When the last earlier credential expires. Present only if that is later than the expiry of this one.
    pub const EARLIER_EXPIRES_AT: &str = "valetkey.dev/earlier-expires-at";
    /// An HMAC over the data of the Secret and these annotations. Only the operator has the HMAC key. The operator
    /// restores a Secret that another client changed.
    pub const RECORD_SIGNATURE: &str = "valetkey.dev/record-signature";
    /// The upload ID of the multipart upload.
    pub const UPLOAD_ID: &str = "valetkey.dev/upload-id";
    /// On a grant: requests a new credential at this time (RFC 3339), or at once if the time has passed.
    pub const RENEW_REQUESTED_AT: &str = "valetkey.dev/renew-requested-at";
    /// On a store: requests a conformance check. A changed value requests another check.
    pub const CANARY_REQUESTED_AT: &str = "valetkey.dev/canary-requested-at";
    /// On the operator's Lease: the address at which the leader receives notifications.
    pub const NOTIFICATIONS_ADDRESS: &str = "valetkey.dev/notifications-address";
}

/// Names of the entries of a grant Secret. They are valid as file names. With `mode: Credentials` a Secret contains
/// `expiry`, `type`, `provider`, and entries with the names of the AWS SDKs' environment variables and files.
pub mod data {
    /// The signed URL.
    pub const URL: &str = "url";
    /// The HTTP method that was signed.
    pub const METHOD: &str = "method";
    /// Headers that the client must send exactly, one `Name: value` per line.
    pub const HEADERS: &str = "headers";
    /// When the credential expires (RFC 3339).
    pub const EXPIRY: &str = "expiry";
    /// The fields of a POST form, as a JSON object. The client must keep their order. Only with `mode: PostForm`.
    pub const FIELDS: &str = "fields.json";
    /// The parts of a multipart upload with their URLs, as JSON with one part per line. Only with `mode: Multipart`.
    pub const PARTS: &str = "parts.json";
    /// A shell script that uploads a file with `parts.json`. Only with `mode: Multipart`.
    pub const UPLOAD_SCRIPT: &str = "upload.sh";
    /// URL and headers as a configuration file for `curl --config`.
    pub const CURL_CONFIG: &str = "curl.cfg";
    /// The type of the binding (Service Binding specification).
    pub const TYPE: &str = "type";
    /// The provider of the binding (Service Binding specification).
    pub const PROVIDER: &str = "provider";
}

/// What a grant permits its holder to do with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operation {
    /// Write one object.
    Upload,
    /// Read one object.
    Download,
}

impl Operation {
    /// The name in specs and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "Upload",
            Self::Download => "Download",
        }
    }

    /// The kind of grant with this operation.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Upload => "UploadGrant",
            Self::Download => "DownloadGrant",
        }
    }
}

/// All CustomResourceDefinitions, in the order in which `valet crds` prints them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        UploadGrant::crd(),
        DownloadGrant::crd(),
        ObjectStore::crd(),
        ClusterObjectStore::crd(),
    ]
    .map(tidy)
    .into()
}

/// Removes line breaks from the descriptions of a generated CRD, because `kubectl explain` wraps lines itself. It
/// also sets the default status of an object that Valet has not reconciled yet.
fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        for schema in schema.into_iter() {
            tidy_schema(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|p| p.get_mut("status")) {
                status.default = Some(JSON(not_looked_at_yet()));
            }
        }
    }
    crd
}

/// The status of an object before its first reconcile. kstatus, and therefore Helm and Flux, would treat an object
/// without conditions as finished. The transition time is 1970, as in Gateway API, because the default of a schema is
/// constant.
fn not_looked_at_yet() -> serde_json::Value {
    let condition = |type_: &str, status: &str| {
        serde_json::json!({
            "type": type_, "status": status, "reason": Reason::Pending.as_str(),
            "message": "Valet has not reconciled this object yet; if this message stays, check that the operator is running and serves this namespace",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        })
    };
    serde_json::json!({"conditions": [condition("Ready", "Unknown"), condition("Reconciling", "True")]})
}

fn tidy_schema(schema: &mut JSONSchemaProps) {
    if let Some(text) = &mut schema.description {
        *text = text
            .replace("\nExample:", "\u{0}Example:")
            .replace('\n', " ")
            .replace('\u{0}', "\n");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|p| p.values_mut())
        .for_each(tidy_schema);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy_schema(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy_schema),
        None => {}
    }
}
