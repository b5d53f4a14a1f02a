//! Sessions of single grants. If the store has `assumeRole`, Valet requests a separate STS session for each credential,
//! and signs the credential with this session.

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;

use super::{
    assume_role,
    credentials_cache::Session,
    session_credentials::{BucketLocation, amazons_endpoint, secret_entries},
    session_policy_check,
    store::S3,
};
use crate::core::{Credential, SignError, SigningRequest};

/// A session for one grant.
pub struct GrantSession {
    /// The temporary credentials of the session.
    pub credentials: Credentials,
    /// The client that signs with these credentials for the workloads' endpoint.
    pub client: Client,
}

/// Begins a session whose policy allows only this request.
///
/// # Errors
/// Returns [`SignError`] if the store does not enforce session policies, or if STS creates no session.
pub async fn start(s3: &S3, session: &Session, request: &SigningRequest) -> Result<GrantSession, SignError> {
    session_policy_check::require_enforced(s3, session, &request.operation_spec).await?;
    let credentials = assume_role::assume(s3, session, request).await?.ok_or_else(|| {
        SignError::Refused("spec.s3.credentials.assumeRole was removed from the store while Valet signed".into())
    })?;
    Ok(GrantSession {
        client: s3.client(&credentials, s3.public_endpoint()),
        credentials,
    })
}

impl GrantSession {
    /// Returns the temporary credentials as entries of a grant Secret.
    ///
    /// # Errors
    /// Returns [`SignError`] if Valet cannot determine the endpoint of the bucket.
    pub async fn secret_entries(&self, s3: &S3, request: &SigningRequest) -> Result<Credential, SignError> {
        let bucket = &s3.store.bucket;
        let location = BucketLocation {
            bucket,
            region: &s3.store.region,
            endpoint: match s3.public_endpoint() {
                Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
                None => amazons_endpoint(&s3.store.region, bucket).await?,
            },
            style: s3.store.addressing_style,
        };
        Ok(Credential::Credentials(secret_entries(
            &self.credentials,
            &location,
            request,
        )))
    }
}
