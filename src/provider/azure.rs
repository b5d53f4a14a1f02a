//! Provider for Azure Blob Storage. It signs shared access signatures (SAS) for one blob, with the account key or
//! with the operator's identity.

mod conformance;
mod delegation;
mod probe;
mod requests;
mod responses;
mod sas;
mod tokens;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::Mutex as AsyncMutex;

pub use sas::SharedKey;
pub use tokens::{Identity, Source};

use self::{
    delegation::Delegation,
    responses::{date, error_code, http_date},
    sas::{SasParams, SasSigner, encoded},
};
use super::{Finding, Probed, Provider, clock::StoreClock, probe::ONLY_READ};
use crate::{
    api::{
        AddressingStyle, Ask, AzureBlobStore, Capabilities, Capability, DownloadMode, ObservedObject, Overwrite,
        Reason, Remedies, ResponseHeaders, UnsignedHeaders, UploadConstraints, UploadMode,
    },
    conformance::ConformanceReport,
    core::{
        Access, AllowedRequest, Credential, Lifetime, ObjectFact, ObjectKey, SignError, Signed, SignedUrl,
        SigningRequest,
    },
    net::{
        EgressPolicy,
        client::{Http, is_of},
    },
};

/// A SAS is valid for at most 7 days, in seconds. Azure sets this limit for user delegation keys ("Create a user
/// delegation SAS"). Valet also applies the limit to a SAS that the account key signs.
const MAX_EXPIRATION_SECONDS: i64 = 604_800;
/// The maximum size of a blob that is uploaded with one PUT request is 5000 MiB (Azure Storage documentation, "Put
/// Blob", version 2019-12-12 or later).
const MAX_PUT_BYTES: i64 = 5000 << 20;
/// The maximum length of a blob name is 1024 characters ("Naming and referencing containers, blobs, and metadata").
/// Valet counts bytes, which is the stricter limit.
const MAX_KEY_BYTES: usize = 1024;
/// The start time of a SAS is 15 minutes before the time of signing. Otherwise Azure would reject the SAS while
/// Azure's clock is behind the operator's clock ("Best practices when using SAS").
const BACK_DATED: SignedDuration = SignedDuration::from_mins(15);
/// A SAS that authorizes the operator's own request is valid for this time.
const OWN: SignedDuration = SignedDuration::from_mins(15);

/// Azure's blob endpoints are in these domains ("Azure Storage endpoints", all clouds).
const AZURES_OWN: &[&str] = &[
    ".core.windows.net",
    ".core.usgovcloudapi.net",
    ".core.chinacloudapi.cn",
    ".storage.azure.net",
];

/// The name of the blob that probes use.
const PROBE_BLOB: &str = "valet-probe";

/// The credentials that sign SAS URLs for an Azure container.
#[derive(Clone)]
pub enum Credentials {
    /// The storage account key signs.
    Key(SharedKey),
    /// The operator's identity signs with user delegation keys.
    Identity(Arc<Identity>),
    /// There are no usable credentials. The text gives the reason.
    Unusable(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Identity(_) => "Identity",
            Self::Unusable(_) => "Unusable",
        })
    }
}

/// An Azure container and the credentials that sign for it.
pub struct AzureBlob {
    store: AzureBlobStore,
    credentials: Credentials,
    http: Http,
    /// This is true if the store belongs to a tenant. Valet then sends requests only to hosts that the egress policy
    /// permits.
    is_tenants: bool,
    /// This is true if Valet is allowed to send write requests to an endpoint outside Azure.
    may_change: bool,
    /// The clock of the store. Valet reads the time from the `Date` headers of the store's answers.
    clock: StoreClock,
    /// This is true if at least one probe of the store has finished.
    is_tried: AtomicBool,
    capabilities: Arc<Capabilities>,
    /// This is true if the store refuses to copy data that the sender of the request is not allowed to read. It is
    /// `None` until a probe has found out.
    refuses_unsigned: Mutex<Option<bool>>,
    /// The result of the last conformance check. It is `None` before the first check.
    canary: Mutex<Option<ConformanceReport>>,
    /// The value contains the user delegation key of the operator's identity, and the time when Valet fetched this
    /// key.
    delegation: AsyncMutex<Option<(Timestamp, Arc<Delegation>)>>,
}

impl AzureBlob {
    /// Creates the provider from the store's settings and credentials, without any request.
    ///
    /// The argument `outward` is the egress policy of a store that a tenant owns. With this policy, the provider sends
    /// requests only to hosts that the policy permits.
    pub fn new(store: AzureBlobStore, credentials: Credentials, outward: Option<EgressPolicy>) -> Self {
        let revocation = match (&credentials, &store.stored_access_policy) {
            (Credentials::Identity(_), _) => {
                "revoke the user delegation keys of the storage account, or remove the role of the operator's identity; all other credentials of the store also become invalid"
            }
            (_, Some(_)) => {
                "remove the stored access policy that spec.azureBlob.storedAccessPolicy names; all other credentials of the store also become invalid"
            }
            (_, None) => {
                "regenerate the account key that signed the credential; all other credentials with this account key also become invalid"
            }
        };
        let capabilities = Arc::new(Capabilities {
            enforced: [
                Capability::WriteOnce,
                Capability::Version,
                Capability::ResponseHeaders,
                Capability::SignedHeadersOnly,
            ]
            .into(),
            remedies: Remedies {
                signed_headers: Some("to set spec.azureBlob.unsignedHeaders: Tolerate"),
                ..Remedies::default()
            },
            max_expiration_seconds: MAX_EXPIRATION_SECONDS,
            max_upload_bytes: MAX_PUT_BYTES,
            max_key_bytes: MAX_KEY_BYTES,
            revocation,
            ..Capabilities::default()
        });
        Self {
            store,
            credentials,
            is_tenants: outward.is_some(),
            may_change: outward.as_ref().is_none_or(EgressPolicy::may_change),
            clock: StoreClock::default(),
            is_tried: AtomicBool::new(false),
            http: Http::new(outward),
            capabilities,
            refuses_unsigned: Mutex::default(),
            canary: Mutex::default(),
            delegation: AsyncMutex::default(),
        }
    }

    /// Returns the account's URL without a slash at its end.
    fn base(&self, endpoint: Option<&String>) -> String {
        let account = &self.store.account;
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        match self.store.addressing_style {
            AddressingStyle::VirtualHost => endpoint,
            AddressingStyle::Path => format!("{endpoint}/{account}"),
        }
    }

    /// Returns the URL of the account that the operator sends its own requests to.
    fn own_base(&self) -> String {
        self.base(self.store.endpoint.as_ref())
    }

    /// Returns true if the operator's endpoint belongs to Azure.
    fn is_azures_own(&self) -> bool {
        is_of(&self.own_base(), AZURES_OWN)
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    fn may_change(&self) -> bool {
        self.may_change || self.is_azures_own()
    }

    /// Returns the URL of the account that workloads use.
    fn public_base(&self) -> String {
        self.base(self.store.public_endpoint.as_ref().or(self.store.endpoint.as_ref()))
    }

    fn signed_url(&self, base: &str, permit: &SasParams<'_>, pen: SasSigner<'_>) -> Result<String, SignError> {
        let query = sas::query(permit, pen)?;
        Ok(format!(
            "{base}/{}/{}?{query}",
            self.store.container,
            encoded(permit.blob)
        ))
    }

    fn permit<'a>(
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

    /// Signs a request for the account at the URL `base`. If `ip` is set, only clients with these addresses can use
    /// the signature.
    async fn sign_for(&self, request: &SigningRequest, base: &str, ip: Option<&str>) -> Result<Signed, SignError> {
        let Lifetime { issued_at, expires_at } = request.lifetime;
        if expires_at <= issued_at {
            return Err(SignError::Refused(
                "the expiry time of the signed URL is not later than the start time".into(),
            ));
        }
        let blob = readable_alike(&request.key)?;
        let start = issued_at - BACK_DATED;
        let (permit, method, headers) = match &request.ask {
            Ask::Upload {
                mode: UploadMode::Put,
                constraints,
                ..
            } => {
                let permissions = permissions(constraints)?;
                // Azure requires this header in every Put Blob request. The header sets the type of the blob. The
                // signature does not cover the header.
                let headers = vec![("x-ms-blob-type".to_owned(), "BlockBlob".to_owned())];
                (self.permit(blob, permissions, start, expires_at, base), "PUT", headers)
            }
            Ask::Download {
                mode: DownloadMode::Credentials,
                ..
            } => {
                return Err(SignError::Refused(
                    "Azure Blob Storage does not support temporary credentials".into(),
                ));
            }
            Ask::Download { version, response, .. } => {
                let permit = SasParams {
                    version: version.as_deref(),
                    response,
                    ..self.permit(blob, "r", start, expires_at, base)
                };
                (permit, "GET", Vec::new())
            }
            Ask::Upload { .. } => {
                return Err(SignError::Refused(
                    "Azure Blob Storage supports only mode Put for uploads; set spec.mode to Put".into(),
                ));
            }
        };
        let permit = SasParams { ip, ..permit };
        let url = match &self.credentials {
            Credentials::Unusable(why) => return Err(unusable(why)),
            Credentials::Key(key) => {
                let pen = SasSigner::Account(key, self.store.stored_access_policy.as_deref());
                self.signed_url(base, &permit, pen)?
            }
            Credentials::Identity(identity) => {
                let delegation = self.delegation(identity).await?;
                if delegation.expiry < expires_at {
                    // Valet fetched a new user delegation key after it decided to sign. The next reconcile uses the
                    // expiry of the new key.
                    return Err(SignError::Refused(
                        "the user delegation key was replaced, and the new user delegation key expires before the requested expiry time".into(),
                    ));
                }
                let permit = SasParams {
                    start: start.max(delegation.start),
                    ..permit
                };
                self.signed_url(base, &permit, SasSigner::Delegation(&delegation.key))?
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

    async fn look_at(&self, key: &ObjectKey) -> ObjectFact {
        let answer = match self.read(Method::HEAD, key.as_str(), None).await {
            Ok(answer) => answer,
            Err(trouble) => return ObjectFact::Unreachable(trouble.text()),
        };
        let code = error_code(&answer);
        match (answer.status, code.as_str()) {
            (200, _) => {}
            (404, "ContainerNotFound") => {
                return ObjectFact::Unreachable(
                    "the storage account has no container with the name in spec.azureBlob.container".into(),
                );
            }
            (404, _) => return ObjectFact::Absent,
            (401 | 403, _) => {
                return self.clock.trouble().map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed);
            }
            (status, _) => return ObjectFact::Unreachable(format!("the store answered {status}")),
        }
        let text = |name: &str| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
        let modified = text("last-modified").and_then(|t| http_date(&t));
        // Valet computes the age of the blob relative to the `Date` header of the answer. If the answer has no `Date`
        // header, Valet uses the operator's clock.
        let age = modified.map(|m| date(&answer).unwrap_or_else(Timestamp::now).duration_since(m));
        ObjectFact::Present {
            object: ObservedObject {
                size: text("content-length").and_then(|n| n.parse().ok()),
                e_tag: text("etag"),
                content_type: text("content-type"),
                checksum_md5: text("content-md5"),
                checksum_crc32c: None,
                checksum_sha256: None,
                version: text("x-ms-version-id"),
                last_modified_time: modified.map(Time),
            }
            .checked(),
            modified_at: age.and_then(|age| Timestamp::now().checked_sub(age).ok()),
        }
    }
}

static NO_RESPONSE: ResponseHeaders = ResponseHeaders {
    content_type: None,
    content_disposition: None,
    content_encoding: None,
    content_language: None,
    cache_control: None,
};

/// Returns the permissions for the SAS of an upload. A SAS can enforce only one constraint of an upload: that the
/// upload must not overwrite a blob.
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

/// Returns an error if Azure could read the blob's name in a different way than a client ("Naming and referencing
/// containers, blobs, and metadata").
fn readable_alike(key: &ObjectKey) -> Result<&str, SignError> {
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

fn unusable(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: why.to_owned(),
    }
}

/// Returns the store's endpoint if the endpoint does not belong to Azure.
pub fn foreign_endpoint(store: &AzureBlobStore) -> Option<String> {
    store.endpoint.clone().filter(|endpoint| !is_of(endpoint, AZURES_OWN))
}

impl Provider for AzureBlob {
    fn name(&self) -> &'static str {
        "azure-blob"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        let seen = *self.refuses_unsigned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut can = (*self.capabilities).clone();
        can.only_read = !self.may_change();
        // If a probe could not find out whether the store has a capability, the capability counts as missing. Before
        // the first probe, the capability counts as present. This is safe, because Valet signs nothing that depends
        // on the capability before the first probe.
        let is_tried = self.is_tried.load(Ordering::Acquire);
        let has_signed_headers_only = seen.unwrap_or(self.is_azures_own() || !is_tried);
        if !has_signed_headers_only && self.store.unsigned_headers == UnsignedHeaders::Refuse {
            can.enforced.remove(&Capability::SignedHeadersOnly);
        }
        if let Some(canary) = &*self.canary.lock().unwrap_or_else(PoisonError::into_inner) {
            canary.narrow(&mut can);
        }
        Arc::new(can)
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
        let place = format!("{salt}\n{base}\n{account}\n{container}\n{stored_access_policy:?}\n{ip_range:?}");
        let print = match &self.credentials {
            Credentials::Unusable(_) => None,
            Credentials::Key(key) => Some(key.print(&place)),
            // The fingerprint does not depend on the user delegation key. Valet replaces this key often, but the
            // signatures of an old key stay valid until they expire.
            Credentials::Identity(_) => Some(SharedKey::nobodys().print(&place)),
        };
        std::future::ready(Ok(print)).boxed()
    }

    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        async {
            let base = self.public_base();
            self.sign_for(request, &base, self.store.ip_range.as_deref()).await
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Probed> {
        async {
            let probed = self.try_out().await;
            // If this probe has no result, Valet keeps the result of the last probe that had one.
            if probed.refuses_unsigned.is_some() {
                *self.refuses_unsigned.lock().unwrap_or_else(PoisonError::into_inner) = probed.refuses_unsigned;
            }
            if probed.finding == Finding::Usable && probed.skew.is_none() {
                self.is_tried.store(true, Ordering::Release);
            }
            probed
        }
        .boxed()
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }

    fn requires_probe(&self) -> bool {
        // Workloads and the operator can use different endpoints, and these endpoints can belong to different stores.
        // Therefore Valet checks both endpoints.
        let is_azures = self.is_azures_own() && is_of(&self.public_base(), AZURES_OWN);
        self.store.unsigned_headers == UnsignedHeaders::Refuse && !is_azures
    }

    fn canary(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if !self.may_change() {
                return ConformanceReport::untried(format!("{ONLY_READ}; this check sends write requests"), false);
            }
            if let Some(why) = self.clock.trouble() {
                return ConformanceReport::untried(why, true);
            }
            let found = self.round_trip(PROBE_BLOB).await;
            *self.canary.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
            found
        }
        .boxed()
    }

    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        self.look_at(access.key()).boxed()
    }
}
