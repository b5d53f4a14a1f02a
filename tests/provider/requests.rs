//! Builds the requests that the checks sign and send.

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::{DownloadMode, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    conformance::PreparedRequest,
    core::{AllowedRequest, Lifetime, ObjectKey, SignError, Signed, SigningRequest, second},
};
use valet_test_support::access;

use crate::subjects::Subject;

/// The lifetime of a credential in a check, in seconds.
pub const SECONDS: i64 = 120;

/// An upload with these constraints.
pub fn upload(mode: UploadMode, constraints: UploadConstraints) -> OperationSpec {
    OperationSpec::Upload {
        mode,
        multipart: Default::default(),
        constraints,
    }
}

/// An upload without constraints that can replace an existing object.
pub fn free(mode: UploadMode) -> OperationSpec {
    upload(
        mode,
        UploadConstraints {
            overwrite: Overwrite::Allow,
            ..UploadConstraints::default()
        },
    )
}

/// A download with these response headers.
pub fn download(response: ResponseHeaders) -> OperationSpec {
    OperationSpec::Download {
        mode: DownloadMode::Url,
        version: None,
        response,
    }
}

/// A request that expires after this number of seconds. A negative number is a time in the past.
pub fn allowed(key: &str, operation_spec: &OperationSpec, seconds: i64, upload: Option<String>) -> AllowedRequest {
    let expires_at = second(Timestamp::now()) + SignedDuration::from_secs(seconds);
    access::allowed(SigningRequest {
        key: ObjectKey::parse_scope(key, usize::MAX).expect("an object key"),
        operation_spec: operation_spec.clone(),
        lifetime: Lifetime {
            issued_at: expires_at - SignedDuration::from_secs(seconds.abs()),
            expires_at,
        },
        holder: "web.a".into(),
        upload,
    })
}

impl Subject {
    /// Signs a request for an object.
    pub async fn signed(&self, key: &str, operation_spec: &OperationSpec, seconds: i64) -> Result<Signed, SignError> {
        let request = allowed(key, operation_spec, seconds, None);
        self.provider.sign(&request).await
    }

    /// Signs a request for an object and returns the valid request.
    pub async fn prepared(&self, key: &str, operation_spec: &OperationSpec) -> PreparedRequest {
        let signed = self.signed(key, operation_spec, SECONDS).await.expect("it is signed");
        PreparedRequest::accepts(&signed).expect("a credential for a single request")
    }

    /// As [`Subject::prepared`], with a credential that has expired.
    pub async fn expired(&self, key: &str, operation_spec: &OperationSpec) -> PreparedRequest {
        let signed = self.signed(key, operation_spec, -SECONDS).await.expect("it is signed");
        PreparedRequest::accepts(&signed).expect("a credential for a single request")
    }
}
