//! Signs credentials for S3 stores.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_s3::{Client, presigning::PresigningConfig};
use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};

use super::{
    assume_role, credentials_cache::Session, fingerprint, form, grant_session, multipart_parts, presigned, store::S3,
};
use crate::{
    api::{OperationSpec, UploadMode},
    core::{AllowedRequest, Credential, Lifetime, SignError, Signed, SigningRequest},
    provider::abilities::{Provider, Signer},
};

impl Signer for S3 {
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.sign_request(request).boxed()
    }

    fn requires_remote_signing(&self) -> bool {
        // If the store has `assumeRole`, Valet must send a request to STS for each credential.
        self.role().is_some()
    }

    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async {
            let session = self.session().await?;
            // If Valet assumes a role for each credential, the issued credential expires with the session of this role.
            // The issued credential stays valid even after the operator credentials that requested this session have
            // expired.
            Ok(match self.role() {
                Some(role) => {
                    let seconds = assume_role::longest(role, &session.credentials);
                    Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).ok()
                }
                None => session.end(Timestamp::now()),
            })
        }
        .boxed()
    }

    fn source_expiry(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async { Ok(self.session().await?.expires) }.boxed()
    }

    fn expiry_is_unknown(&self) -> BoxFuture<'_, bool> {
        // If Valet assumes a role for each credential, STS returns the expiry of the session. Therefore the expiry
        // can be unknown only if Valet does not assume a role.
        async { self.role().is_none() && self.session().await.is_ok_and(|session| session.expiry_is_unknown()) }
            .boxed()
    }

    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        async move {
            // If the store has a role, each grant has its own session. The credentials that assume the role then need
            // no long lifetime.
            if self.role().is_none() {
                let _ = self.session_until(Some(until)).await;
            }
        }
        .boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        async move {
            let session = self.session().await?;
            let print = fingerprint::of(&self.store, self.public_endpoint(), &session.credentials, salt);
            Ok(Some(print))
        }
        .boxed()
    }
}

/// The client and the credentials that sign one credential.
struct Signing<'a> {
    client: &'a Client,
    credentials: &'a Credentials,
}

impl S3 {
    /// Signs a request for a grant or for a conformance check.
    pub(super) async fn sign_request(&self, request: &SigningRequest) -> Result<Signed, SignError> {
        let session = self.session().await?;
        if self.role().is_some() {
            let own = grant_session::start(self, &session, request).await?;
            if request.operation_spec.is_for_credentials() {
                return Ok(self.signed(own.secret_entries(self, request).await?));
            }
            let signing = Signing {
                client: &own.client,
                credentials: &own.credentials,
            };
            return self.sign_with(&signing, request).await;
        }
        outlasts(&session, request.lifetime)?;
        let signing = Signing {
            client: &session.signer,
            credentials: &session.credentials,
        };
        self.sign_with(&signing, request).await
    }

    async fn sign_with(&self, signing: &Signing<'_>, request: &SigningRequest) -> Result<Signed, SignError> {
        let presigning = presigning(request.lifetime)?;
        let (client, bucket, key) = (signing.client, &self.store.bucket, request.key.as_str());
        let credential = match &request.operation_spec {
            operation_spec if operation_spec.is_for_credentials() => {
                // Valet never gives the credentials of the store itself to a client.
                let why = "spec.s3.credentials.assumeRole is not set in the store, so Valet cannot issue temporary credentials";
                return Err(SignError::Refused(why.into()));
            }
            OperationSpec::Upload { mode, constraints, .. } => match mode {
                UploadMode::Put => presigned::put(client, bucket, key, constraints, presigning).await?,
                UploadMode::Multipart => {
                    Credential::Parts(multipart_parts::sign(client, bucket, request, presigning).await?)
                }
                UploadMode::PostForm => {
                    let target = form::Target {
                        bucket,
                        region: &self.store.region,
                        key,
                    };
                    Credential::Form {
                        url: form::action(client, bucket, presigning).await?,
                        fields: form::sign(signing.credentials, &target, constraints, request.lifetime)?,
                    }
                }
                UploadMode::Resumable | UploadMode::Credentials => {
                    let mode = mode.as_str();
                    let why = format!("spec.mode: S3 stores do not support upload mode {mode}");
                    return Err(SignError::Refused(why));
                }
            },
            OperationSpec::Download { version, response, .. } => {
                presigned::get(client, bucket, key, version.clone(), response, presigning).await?
            }
        };
        Ok(self.signed(credential))
    }

    fn signed(&self, credential: Credential) -> Signed {
        Signed {
            credential,
            provider: self.name(),
        }
    }
}

/// Checks that the current credentials of the store do not expire before the credential that Valet signs.
fn outlasts(session: &Session, lifetime: Lifetime) -> Result<(), SignError> {
    let end = session.end(Timestamp::now());
    if end.is_some_and(|end| end < lifetime.expires_at) {
        // The session changed after Valet decided to sign. The next reconcile uses the expiry of the new session.
        return Err(SignError::Refused(
            "the store's credentials were replaced, and the new credentials expire before the requested expiry"
                .into(),
        ));
    }
    Ok(())
}

fn presigning(lifetime: Lifetime) -> Result<PresigningConfig, SignError> {
    let seconds = u64::try_from(lifetime.seconds()).ok().filter(|s| *s > 0);
    let seconds = seconds
        .ok_or_else(|| SignError::Refused("the expiry of the credential is not after its start time".into()))?;
    PresigningConfig::builder()
        .start_time(SystemTime::from(lifetime.issued_at))
        .expires_in(Duration::from_secs(seconds))
        .build()
        .map_err(|e| SignError::Refused(e.to_string()))
}
