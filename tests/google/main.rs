//! Tests of Google Cloud Storage: signatures compared with Google's own client and verified by a checker in another
//! language, token and signing endpoints with good and bad answers, and end-to-end tests on fake-gcs-server.

mod checksums;
mod conformance;
mod fake;
mod faults;
mod federation;
mod flow;
mod identity;
mod requests;
mod signatures;

use valet_test_support::access;
use valet_test_support::world;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet::{
    api::{LengthRange, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    core::{AllowedRequest, Lifetime, ObjectKey, SigningRequest},
    provider::gcs::{Gcs, ServiceAccountKey, Source},
};

/// The time limit for a server that does not answer, far longer than Valet may wait even on a busy machine.
pub const HANG: std::time::Duration = std::time::Duration::from_secs(120);

/// Google's own service account key for tests. It gives access to nothing.
pub const KEY: &str = include_str!("../fixtures/google/service-account.json");
/// The service account of [`KEY`].
pub const ACCOUNT: &str = "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com";

/// The parsed service account key.
pub fn key() -> ServiceAccountKey {
    ServiceAccountKey::parse(KEY.as_bytes()).expect("it is a key")
}

/// A store called `media` with more settings.
pub fn store(more: Value, source: Source, iam: Option<&str>) -> Gcs {
    let mut store = json!({"bucket": "media"});
    world::merge(&mut store, more);
    Gcs::new(serde_json::from_value(store).expect("settings"), source, iam, None)
}

/// The start of a lifetime of one hour.
pub const ISSUED: &str = "2026-01-02T03:04:05Z";

/// A request that is signed at [`ISSUED`] for an hour.
pub fn request(key: &str, operation_spec: OperationSpec) -> AllowedRequest {
    let issued_at: Timestamp = ISSUED.parse().expect("a time");
    access::allowed(SigningRequest {
        key: ObjectKey::parse_scope(key, 1024).expect("a key"),
        operation_spec,
        lifetime: Lifetime {
            issued_at,
            expires_at: issued_at + SignedDuration::from_hours(1),
        },
        holder: "web.x".into(),
        upload: None,
    })
}

/// An upload of 3 to 9 bytes of text.
pub fn upload(mode: UploadMode, overwrite: Overwrite) -> OperationSpec {
    OperationSpec::Upload {
        mode,
        multipart: Default::default(),
        constraints: UploadConstraints {
            content_type: Some("text/plain; charset=utf-8".into()),
            content_length_range: Some(LengthRange { min: 3, max: 9 }),
            overwrite,
            ..UploadConstraints::default()
        },
    }
}

pub fn download(version: Option<&str>) -> OperationSpec {
    OperationSpec::Download {
        mode: Default::default(),
        version: version.map(str::to_owned),
        response: ResponseHeaders {
            content_type: Some("text/csv".into()),
            content_disposition: Some("attachment; filename=\"a b.csv\"".into()),
            ..ResponseHeaders::default()
        },
    }
}

/// The parts of a signed request, independent of the kind of credential.
pub struct Plain {
    pub url: valet::core::SignedUrl,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub form: Option<valet::core::Form>,
}

/// Splits a credential into its parts.
pub trait Flat {
    fn flat(self) -> Plain;
}

impl Flat for valet::core::Signed {
    fn flat(self) -> Plain {
        match self.credential {
            valet::core::Credential::Request { url, method, headers } => Plain {
                url,
                method,
                headers,
                form: None,
            },
            valet::core::Credential::Form { url, fields } => Plain {
                url,
                method: "POST".into(),
                headers: Vec::new(),
                form: Some(fields),
            },
            valet::core::Credential::Parts(_) | valet::core::Credential::Credentials(_) => {
                panic!("there are no parts here")
            }
        }
    }
}
