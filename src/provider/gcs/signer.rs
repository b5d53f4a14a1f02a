//! Signs credentials for Google Cloud Storage.

use aws_lc_rs::digest::{SHA256, digest};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use super::{
    form,
    headers::{get_query, no_credentials, put_headers, session_headers},
    signing_account::GcsSigner,
    store::{Gcs, Target},
    v4,
};
use crate::{
    api::{DownloadMode, OperationSpec, UploadConstraints, UploadMode},
    core::{AllowedRequest, Credential, Form, Lifetime, SignError, Signed, SignedUrl, SigningRequest},
    provider::abilities::{Provider, Signer},
};

/// The number of hexadecimal digits of a fingerprint. With 16 digits, two different texts practically never have
/// equal fingerprints.
const FINGERPRINT_DIGITS: usize = 16;

impl Signer for Gcs {
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.sign_request(Target::Workload, request).boxed()
    }

    fn requires_remote_signing(&self) -> bool {
        // If there is no service account key, Google's IAM signs. Each signature then needs one request to IAM.
        matches!(self.signing_key, GcsSigner::Google(_))
    }

    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async {
            self.signing_key.is_ready().await?;
            // A service account key does not expire. If Google's IAM signs, only the access token for the request to
            // IAM expires. The signed URL stays valid after the expiry of this access token.
            Ok(None)
        }
        .boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        async move {
            let who = self.signing_key.print().await?;
            let v4::Request {
                scheme,
                authority,
                path,
                ..
            } = self.location(Target::Workload, "/");
            let all = format!("{salt}\n{who}\n{scheme}://{authority}{path}");
            let mut digits = v4::hex(digest(&SHA256, all.as_bytes()).as_ref());
            digits.truncate(FINGERPRINT_DIGITS);
            Ok(Some(digits))
        }
        .boxed()
    }
}

impl Gcs {
    /// Signs a credential. `target` selects the operator's endpoint or the workloads' endpoint.
    pub(super) async fn sign_request(&self, target: Target, request: &SigningRequest) -> Result<Signed, SignError> {
        let lifetime = request.lifetime;
        let most = self.assumed.max_expiration_seconds;
        if !(1..=most).contains(&lifetime.seconds()) {
            return Err(SignError::Refused(format!(
                "the lifetime of the credential must be between 1 and {most} seconds"
            )));
        }
        let key = request.key.as_str();
        let mut wanted = self.request(target, key);
        match &request.operation_spec {
            OperationSpec::Upload { mode, constraints, .. } => match mode {
                UploadMode::PostForm => return self.sign_form(target, key, constraints, lifetime).await,
                UploadMode::Put => {
                    wanted.method = "PUT";
                    wanted.headers = put_headers(constraints)?;
                }
                UploadMode::Resumable => {
                    wanted.method = "POST";
                    wanted.headers = session_headers(constraints)?;
                }
                UploadMode::Multipart => {
                    return Err(SignError::Refused(
                        "Google Cloud Storage does not support multipart uploads; set spec.mode to Resumable".into(),
                    ));
                }
                UploadMode::Credentials => return Err(no_credentials()),
            },
            OperationSpec::Download {
                mode: DownloadMode::Credentials,
                ..
            } => return Err(no_credentials()),
            OperationSpec::Download { version, response, .. } => {
                wanted.method = "GET";
                wanted.query = get_query(version.as_ref(), response)?;
            }
        }
        Ok(Signed {
            credential: Credential::Request {
                url: SignedUrl::new(self.signed(&wanted, lifetime).await?),
                method: wanted.method.to_owned(),
                headers: wanted.headers,
            },
            provider: self.name(),
        })
    }

    async fn sign_form(
        &self,
        target: Target,
        key: &str,
        constraints: &UploadConstraints,
        lifetime: Lifetime,
    ) -> Result<Signed, SignError> {
        let (fields, range) = form::conditions(key, constraints)?;
        let account = self.signing_key.account().await?;
        let range = [form::Condition::Range(range)];
        let unsigned = form::prepare((&self.store.bucket, key), &fields, &range, &account, lifetime);
        let signature = self.signing_key.sign(unsigned.policy.as_bytes()).await?;
        let location = self.location(target, "/");
        Ok(Signed {
            credential: Credential::Form {
                url: SignedUrl::new(format!("{}://{}{}", location.scheme, location.authority, location.path)),
                fields: Form::new(unsigned.with(&signature)),
            },
            provider: self.name(),
        })
    }
}
