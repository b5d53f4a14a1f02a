//! The API types: custom resources, status, reasons and the names of annotations. This module uses no other module of
//! Valet.
//!
//! The command `kubectl explain` prints the doc comments of custom resource fields. Therefore these comments are user
//! documentation.

// Each printer column sets `type_`, and clippy wrongly reports the repeated attribute as a mistake.
#![allow(clippy::duplicated_attributes)]

mod bounds;
mod capability;
mod condition;
mod constraints;
mod download;
mod grant;
mod grant_kinds;
mod limits;
mod multipart;
mod observed;
mod patterns;
mod printable;
mod reason;
mod rules;
mod status;
pub mod store;
mod terms;
mod upload;

pub use capability::{Capabilities, Capability, Remedies};
pub use condition::{ConditionType, set_condition, set_ready};
pub use constraints::{LengthRange, Overwrite, UploadConstraints};
pub use download::{DownloadGrant, DownloadGrantSpec, DownloadMode, ResponseHeaders};
pub use grant::{Grant, OperationSpec};
pub use limits::StoreLimits;
pub use multipart::{MAX_PARTS, MIB, Multipart, Part, Parts};
pub use observed::{ObservedObject, is_entity_tag, is_media_type};
pub use printable::{MAX_MESSAGE_BYTES, printable};
pub use reason::{Progress, Reason};
pub use status::{Binding, GrantStatus};
pub use store::{
    AccessRule, AddressingStyle, ByteSize, ClusterAccessRule, ClusterObjectStore, ClusterObjectStoreSpec,
    ConformanceCheckStatus, Namespaces, ObjectStore, ObjectStoreSpec, Permission, ProviderConfig, RenewalPermission,
    SecretRef, ShortSessions, Store, StoreStatus, UnsignedHeaders,
};
pub use terms::{Renewal, RenewalPolicy, SecretTemplate, StoreKind, StoreRef, Terms};
pub use upload::{UploadGrant, UploadGrantSpec, UploadMode};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All custom resources of Valet are in this API group.
pub const GROUP: &str = "valetkey.dev";
/// Valet serves only this API version.
pub const VERSION: &str = "v1alpha1";

/// Every grant Secret has this `type`.
pub const SECRET_TYPE: &str = "valetkey.dev/grant";
/// The operator's HMAC key for record signatures is in a Secret with this `type`.
pub const RECORD_KEY_TYPE: &str = "valetkey.dev/record-key";
/// The operator's HMAC key for record signatures is in the Secret with this name, in the operator's namespace.
pub const RECORD_KEY_NAME: &str = "valet-record-key";
/// Every grant Secret has this label. The value of the label is [`MANAGED_BY_VALUE`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// This is the value of the label [`MANAGED_BY_LABEL`].
pub const MANAGED_BY_VALUE: &str = "valet";

/// A grant with a multipart upload has this finalizer. Uploaded parts stay in the store until Valet completes or
/// aborts the multipart upload. Until then, the finalizer keeps the grant.
pub const MULTIPART_FINALIZER: &str = "valetkey.dev/multipart";

/// The names of Valet's annotations. Valet sets most of them on grant Secrets.
pub mod annotation {
    /// The annotation says when Valet issued the credential (RFC 3339, whole seconds).
    pub const ISSUED_AT: &str = "valetkey.dev/issued-at";
    /// The annotation says when the credential expires (RFC 3339, whole seconds). This is the earliest of three
    /// times: the expiry that the grant requests, the limit of the store, and the expiry of the signing credentials.
    pub const EXPIRES_AT: &str = "valetkey.dev/expires-at";
    /// The annotation contains the UID of the grant.
    pub const GRANT_UID: &str = "valetkey.dev/grant-uid";
    /// The annotation contains the `metadata.generation` that the grant had when Valet last wrote the Secret.
    pub const GRANT_GENERATION: &str = "valetkey.dev/grant-generation";
    /// The annotation names the store of the grant in the form `Kind/name`.
    pub const STORE: &str = "valetkey.dev/store";
    /// The annotation contains the lifetime, in seconds, that the grant requested for this credential. If the grant
    /// later requests a different lifetime, Valet issues a new credential.
    pub const EXPIRATION_SECONDS: &str = "valetkey.dev/expiration-seconds";
    /// The annotation contains a fingerprint of three things: the bucket, its address, and the store's long-lived
    /// credentials at the time of signing. When the store's fingerprint changes, Valet signs the credential again.
    pub const SIGNED_WITH: &str = "valetkey.dev/signed-with";
    /// The annotation says how many credentials the grant had before the current one. The first credential has no
    /// such annotation.
    pub const RENEWALS: &str = "valetkey.dev/renewals";
    /// The annotation contains the latest expiry of the grant's earlier credentials. It exists only if this time is
    /// later than the expiry of the current credential.
    pub const EARLIER_EXPIRES_AT: &str = "valetkey.dev/earlier-expires-at";
    /// The annotation contains an HMAC over the data of the Secret and over Valet's annotations. Only the operator
    /// has the HMAC key. If another client changes the Secret, the operator restores it.
    pub const RECORD_SIGNATURE: &str = "valetkey.dev/record-signature";
    /// The annotation contains the upload ID of the multipart upload.
    pub const UPLOAD_ID: &str = "valetkey.dev/upload-id";
    /// A user sets this annotation on a grant to request a new credential at this time (RFC 3339). If the time has
    /// passed, Valet issues the new credential at once.
    pub const RENEW_REQUESTED_AT: &str = "valetkey.dev/renew-requested-at";
    /// A user sets this annotation on a store to request a conformance check. Each change of the value requests a
    /// further check.
    pub const CHECK_REQUESTED_AT: &str = "valetkey.dev/check-requested-at";
    /// The leader sets this annotation on the operator's Lease. It contains the address at which the leader receives
    /// notifications.
    pub const NOTIFICATIONS_ADDRESS: &str = "valetkey.dev/notifications-address";
}

/// The names of the entries of a grant Secret. Each name is also valid as a file name. With `mode: Credentials`, a
/// Secret contains `expiry`, `type` and `provider`. Its other entries have the names of environment variables and
/// files that the AWS SDKs read.
pub mod data {
    /// The entry contains the signed URL.
    pub const URL: &str = "url";
    /// The entry contains the HTTP method that Valet signed.
    pub const METHOD: &str = "method";
    /// The entry contains the headers that the client must send without changes. Each line has the form `Name:
    /// value`.
    pub const HEADERS: &str = "headers";
    /// The entry says when the credential expires (RFC 3339).
    pub const EXPIRY: &str = "expiry";
    /// The entry contains the fields of a POST form as a JSON object. The client must keep the order of the fields.
    /// The entry exists only with `mode: PostForm`.
    pub const FIELDS: &str = "fields.json";
    /// The entry contains the parts of a multipart upload with their URLs, as JSON with one part per line. The entry
    /// exists only with `mode: Multipart`.
    pub const PARTS: &str = "parts.json";
    /// The entry contains a shell script that uploads a file with `parts.json`. The entry exists only with `mode:
    /// Multipart`.
    pub const UPLOAD_SCRIPT: &str = "upload.sh";
    /// The entry contains the URL and the headers as a configuration file for `curl --config`.
    pub const CURL_CONFIG: &str = "curl.cfg";
    /// The entry contains the type of the binding (Service Binding specification).
    pub const TYPE: &str = "type";
    /// The entry contains the provider of the binding (Service Binding specification).
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
    /// Returns the name of the operation in specs and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "Upload",
            Self::Download => "Download",
        }
    }

    /// Returns the kind of grant that permits this operation.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Upload => "UploadGrant",
            Self::Download => "DownloadGrant",
        }
    }
}

/// Returns all CustomResourceDefinitions in the order in which `valet crds` prints them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        UploadGrant::crd(),
        DownloadGrant::crd(),
        ObjectStore::crd(),
        ClusterObjectStore::crd(),
    ]
    .map(tidy_crd)
    .into()
}

/// Removes line breaks from the descriptions of a generated CRD, because `kubectl explain` wraps lines itself. The
/// function also sets the default status, which an object has before Valet reconciles it for the first time.
fn tidy_crd(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        for schema in schema.into_iter() {
            tidy_schema(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|p| p.get_mut("status")) {
                status.default = Some(JSON(not_reconciled_yet()));
            }
        }
    }
    crd
}

/// Returns the status of an object before its first reconcile. Without conditions, kstatus (and therefore Helm and
/// Flux) would treat the object as finished.
///
/// The transition time is in 1970, as in Gateway API, because a schema can contain only a constant as a default
/// value.
fn not_reconciled_yet() -> serde_json::Value {
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
