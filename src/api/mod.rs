//! The words: kinds, status, reasons, annotation keys. Imports nothing else of Valet's.
//!
//! Doc comments on the fields of the kinds are user documentation: `kubectl explain` prints them.

// Every printer column of a kind has a type, and clippy takes the second one for a slip.
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
pub use condition::{set_condition, set_ready};
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
    ObjectStoreSpec, Permission, Place, RenewalPermission, ResumableUploads, S3Credentials, S3Store, SecretRef,
    ShortSessions, Store, StoreStatus, UnsignedHeaders,
};
pub use terms::{Renewal, RenewalPolicy, SecretTemplate, StoreKind, StoreRef, Terms};
pub use upload::{LengthRange, Overwrite, UploadConstraints, UploadGrant, UploadGrantSpec, UploadMode};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of all kinds.
pub const GROUP: &str = "valetkey.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";

/// The `type` of every Secret that Valet writes.
pub const SECRET_TYPE: &str = "valetkey.dev/grant";
/// The `type` of the Secret with the operator's record key.
pub const RECORD_KEY_TYPE: &str = "valetkey.dev/record-key";
/// The name of that Secret, in the operator's namespace.
pub const RECORD_KEY_NAME: &str = "valet-record-key";
/// Label that every Secret of Valet's carries, with [`MANAGED_BY_VALUE`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY_VALUE: &str = "valet";

/// Finalizer of a grant whose object comes in parts: what has come lies in the store until somebody puts it together or
/// throws it away.
pub const MULTIPART_FINALIZER: &str = "valetkey.dev/multipart";

/// Annotation keys on a grant's Secret.
pub mod annotation {
    /// When the key was signed (RFC 3339, whole seconds).
    pub const ISSUED_AT: &str = "valetkey.dev/issued-at";
    /// When the key stops working (RFC 3339, whole seconds): the least of what was asked, what the store
    /// allows and when the signing credentials end.
    pub const EXPIRES_AT: &str = "valetkey.dev/expires-at";
    /// UID of the grant that the key was signed for.
    pub const GRANT_UID: &str = "valetkey.dev/grant-uid";
    /// `metadata.generation` of the grant that the Secret was last written for.
    pub const GRANT_GENERATION: &str = "valetkey.dev/grant-generation";
    /// The store: `Kind/name`.
    pub const STORE: &str = "valetkey.dev/store";
    /// The lifetime that was asked for, in seconds: a grant that asks for another one gets a new key.
    pub const EXPIRATION_SECONDS: &str = "valetkey.dev/expiration-seconds";
    /// A fingerprint of what the key was signed with: the bucket, its address and the store's lasting credentials. Once
    /// the store has another one, the key is signed anew.
    pub const SIGNED_WITH: &str = "valetkey.dev/signed-with";
    /// How many keys the grant had before this one; absent from the first.
    pub const RENEWALS: &str = "valetkey.dev/renewals";
    /// When the last of the keys before this one ends; only if that is later than this one's end.
    pub const EARLIER_EXPIRES_AT: &str = "valetkey.dev/earlier-expires-at";
    /// A message authentication code of the Secret's data and of all of these annotations, with a key that only the operator
    /// has: a Secret that somebody has changed is told by it, and restored.
    pub const RECORD_SIGNATURE: &str = "valetkey.dev/record-signature";
    /// The store's name for the upload in parts that the URLs are for.
    pub const UPLOAD_ID: &str = "valetkey.dev/upload-id";
    /// On a grant, not on its Secret: a new key is wanted, at this time (RFC 3339) or as soon as it has passed.
    pub const RENEW_REQUESTED_AT: &str = "valetkey.dev/renew-requested-at";
    /// On a store: what it really enforces shall be tried with real keys. Another value asks for it once more.
    pub const CANARY_REQUESTED_AT: &str = "valetkey.dev/canary-requested-at";
    /// On the operator's Lease: where the replica that works takes notifications.
    pub const NOTIFICATIONS_ADDRESS: &str = "valetkey.dev/notifications-address";
}

/// Names of a grant Secret's data: valid as file names and as environment variables' values' sources alike. With mode:
/// Credentials the names of the AWS SDKs' environment variables and files come beside `expiry`, `type` and `provider`.
pub mod data {
    /// The signed URL.
    pub const URL: &str = "url";
    /// The HTTP method that was signed.
    pub const METHOD: &str = "method";
    /// Headers that the client must send to the letter, one `Name: value` a line.
    pub const HEADERS: &str = "headers";
    /// When the key stops working, RFC 3339.
    pub const EXPIRY: &str = "expiry";
    /// The fields of a form, a JSON object whose order is to be kept; only of keys for a POST form.
    pub const FIELDS: &str = "fields.json";
    /// The parts of an upload, each with its URL, a JSON object with one part a line; only of keys for mode Multipart.
    pub const PARTS: &str = "parts.json";
    /// A shell script that uploads a file by `parts.json`; only of keys for mode Multipart.
    pub const UPLOAD_SCRIPT: &str = "upload.sh";
    /// All of it as a configuration file for `curl --config`.
    pub const CURL_CONFIG: &str = "curl.cfg";
    /// Service Binding: what the binding is.
    pub const TYPE: &str = "type";
    /// Service Binding: who provides it.
    pub const PROVIDER: &str = "provider";
}

/// What a grant lets its holder do with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operation {
    /// Write one object.
    Upload,
    /// Read one object.
    Download,
}

impl Operation {
    /// The word in specs and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "Upload",
            Self::Download => "Download",
        }
    }

    /// The kind that asks for it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Upload => "UploadGrant",
            Self::Download => "DownloadGrant",
        }
    }
}

/// Every custom resource definition, in the order in which `valet crds` prints them.
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

/// Makes a generated definition read well (texts flow: `kubectl explain` breaks lines itself), and gives an object that
/// nobody has looked at yet a status that says so.
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

/// The status of an object before the first visit. Without it an object has no conditions, which kstatus, and so Helm
/// and Flux, take for done. The time is 1970 since nobody was there to read a clock (so does Gateway API).
fn not_looked_at_yet() -> serde_json::Value {
    let condition = |type_: &str, status: &str| {
        serde_json::json!({
            "type": type_, "status": status, "reason": Reason::Pending.as_str(),
            "message": "Valet has not looked at it yet; if this stays, its operator is not running or does not serve this namespace",
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
