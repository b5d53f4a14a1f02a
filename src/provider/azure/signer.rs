//! Signs shared access signatures (SAS) for grants.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use super::{
    credentials::{Credentials, unusable},
    limits::BACK_DATED,
    sas::{self, SasParams, SasSigner, SharedKey, encoded},
    store::AzureBlob,
};
use crate::{
    api::{
        DownloadMode, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode,
        store::azure::AzureBlobStore,
    },
    core::{AllowedRequest, Credential, Lifetime, ObjectKey, SignError, Signed, SignedUrl, SigningRequest},
    provider::abilities::{Provider, Signer},
};

impl Signer for AzureBlob {
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        async {
            let base = self.public_base();
            self.sign_for(request, &base, self.store.ip_range.as_deref()).await
        }
        .boxed()
    }

    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async {
            match &self.credentials {
                Credentials::Unusable(why) => Err(unusable(why)),
                Credentials::Key(_) => Ok(None),
                Credentials::Identity(identity) => Ok(Some(self.delegation(identity).await?.expiry)),
            }
        }
        .boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let AzureBlobStore {
            account,
            container,
            stored_access_policy,
            ip_range,
            ..
        } = &self.store;
        let base = self.public_base();
        let location = format!("{salt}\n{base}\n{account}\n{container}\n{stored_access_policy:?}\n{ip_range:?}");
        let print = match &self.credentials {
            Credentials::Unusable(_) => None,
            Credentials::Key(key) => Some(key.print(&location)),
            // The fingerprint does not depend on the user delegation key. Valet replaces the user delegation key often,
            // but signatures of the previous key stay valid. Therefore Valet does not need to sign again after a
            // replacement.
            Credentials::Identity(_) => Some(SharedKey::without_account().print(&location)),
        };
        std::future::ready(Ok(print)).boxed()
    }
}

impl AzureBlob {
    pub(super) fn signed_url(
        &self,
        base: &str,
        params: &SasParams<'_>,
        signer: SasSigner<'_>,
    ) -> Result<String, SignError> {
        let query = sas::query(params, signer)?;
        Ok(format!(
            "{base}/{}/{}?{query}",
            self.store.container,
            encoded(params.blob)
        ))
    }

    pub(super) fn params<'a>(
        &'a self,
        blob: &'a str,
        permissions: &'a str,
        start: Timestamp,
        expiry: Timestamp,
        base: &str,
    ) -> SasParams<'a> {
        SasParams {
            account: &self.store.account,
            container: &self.store.container,
            blob,
            version: None,
            permissions,
            start,
            expiry,
            ip: self.store.ip_range.as_deref(),
            allow_http: base.starts_with("http://"),
            response: &NO_RESPONSE,
        }
    }

    /// Signs a SAS URL for a blob of the storage account. `base` is the URL of the storage account. If `ip` is set,
    /// only clients with an IP address in this range can use the SAS URL.
    pub(super) async fn sign_for(
        &self,
        request: &SigningRequest,
        base: &str,
        ip: Option<&str>,
    ) -> Result<Signed, SignError> {
        let Lifetime { issued_at, expires_at } = request.lifetime;
        if expires_at <= issued_at {
            return Err(SignError::Refused(
                "the expiry time of the signed URL is not later than the start time".into(),
            ));
        }
        let blob = check_path_is_unambiguous(&request.key)?;
        let start = issued_at - BACK_DATED;
        let (params, method, headers) = match &request.operation_spec {
            OperationSpec::Upload {
                mode: UploadMode::Put,
                constraints,
                ..
            } => {
                let permissions = permissions(constraints)?;
                // Azure requires this header in every Put Blob request. The header sets the type of the blob. The
                // signature does not cover the header.
                let headers = vec![("x-ms-blob-type".to_owned(), "BlockBlob".to_owned())];
                (self.params(blob, permissions, start, expires_at, base), "PUT", headers)
            }
            OperationSpec::Download {
                mode: DownloadMode::Credentials,
                ..
            } => {
                return Err(SignError::Refused(
                    "Azure Blob Storage does not support temporary credentials".into(),
                ));
            }
            OperationSpec::Download { version, response, .. } => {
                let params = SasParams {
                    version: version.as_deref(),
                    response,
                    ..self.params(blob, "r", start, expires_at, base)
                };
                (params, "GET", Vec::new())
            }
            OperationSpec::Upload { .. } => {
                return Err(SignError::Refused(
                    "Azure Blob Storage supports only mode Put for uploads; set spec.mode to Put".into(),
                ));
            }
        };
        let params = SasParams { ip, ..params };
        let url = match &self.credentials {
            Credentials::Unusable(why) => return Err(unusable(why)),
            Credentials::Key(key) => {
                let signer = SasSigner::Account(key, self.store.stored_access_policy.as_deref());
                self.signed_url(base, &params, signer)?
            }
            Credentials::Identity(identity) => {
                let delegation = self.delegation(identity).await?;
                if delegation.expiry < expires_at {
                    // When Valet chose the expiry time of the URL, it used the expiry of the previous user delegation
                    // key. Since then, Valet has fetched a new key, which expires earlier. The next reconcile chooses
                    // an expiry time from the expiry of the new key.
                    return Err(SignError::Refused(
                        "the user delegation key was replaced, and the new user delegation key expires before the requested expiry time".into(),
                    ));
                }
                let params = SasParams {
                    start: start.max(delegation.start),
                    ..params
                };
                self.signed_url(base, &params, SasSigner::Delegation(&delegation.key))?
            }
        };
        Ok(Signed {
            credential: Credential::Request {
                url: SignedUrl::new(url),
                method: method.into(),
                headers,
            },
            provider: self.name(),
        })
    }
}

static NO_RESPONSE: ResponseHeaders = ResponseHeaders {
    content_type: None,
    content_disposition: None,
    content_encoding: None,
    content_language: None,
    cache_control: None,
};

/// Returns the permissions for the SAS of an upload. A SAS can enforce only one constraint of an upload: the upload
/// must not overwrite an existing blob.
fn permissions(constraints: &UploadConstraints) -> Result<&'static str, SignError> {
    let UploadConstraints {
        content_type,
        content_length,
        content_length_range,
        checksum_sha256,
        checksum_md5,
        overwrite,
    } = constraints;
    let has_more = content_type.is_some()
        || content_length.is_some()
        || content_length_range.is_some()
        || checksum_sha256.is_some()
        || checksum_md5.is_some();
    if has_more {
        return Err(SignError::Refused(
            "a shared access signature (SAS) cannot enforce the content type, size or checksum of an upload".into(),
        ));
    }
    Ok(match overwrite {
        Overwrite::Forbid => "c",
        Overwrite::Allow => "w",
    })
}

/// Returns an error if the object key is ambiguous, because Azure or a client changes it into a different blob name
/// ("Naming and referencing containers, blobs, and metadata").
fn check_path_is_unambiguous(key: &ObjectKey) -> Result<&str, SignError> {
    let key = key.as_str();
    if key.contains('\\') {
        return Err(SignError::Impossible(
            "spec.key contains '\\', but Azure Blob Storage and its clients treat '\\' as '/'; choose an object key without '\\'".into(),
        ));
    }
    if key.split('/').any(|segment| segment.ends_with('.')) {
        return Err(SignError::Impossible(
            "spec.key has a segment that ends with '.', but clients of Azure Blob Storage remove this '.'; choose an object key without such a segment".into(),
        ));
    }
    Ok(key)
}
