//! Azure Blob Storage: shared access signatures for one blob, by the account's key or by an identity.

mod conformance;
mod delegation;
mod probe;
mod requests;
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
    requests::{date, error_code, http_date},
    sas::{Pen, Permit, encoded},
};
use super::{Finding, Probed, Provider, clock::StoreClock, probe::ONLY_READ};
use crate::{
    api::{
        AddressingStyle, Ask, AzureBlobStore, Capabilities, Capability, DownloadMode, ObservedObject, Overwrite,
        Reason, Remedies, ResponseHeaders, UnsignedHeaders, UploadConstraints, UploadMode,
    },
    conformance::Canary,
    core::{
        Access, AllowedRequest, Key, Lifetime, ObjectFact, ObjectKey, SignError, Signed, SignedUrl, SigningRequest,
        is_skewed, skewed,
    },
    net::{
        Outward,
        client::{Http, is_of},
    },
};

/// The longest life of a key: what an identity's delegation key allows, and no less for an account's key (Azure Storage
/// documentation, "Create a user delegation SAS").
const MAX_EXPIRATION_SECONDS: i64 = 604_800;
/// The largest blob of one PUT: 5000 MiB ("Put Blob", from version 2019-12-12 on).
const MAX_PUT_BYTES: i64 = 5000 << 20;
/// The longest name of a blob: 1024 characters ("Naming and referencing containers, blobs, and metadata"); here bytes.
const MAX_KEY_BYTES: usize = 1024;
/// Keys are good from so long before they were signed: clocks differ, and a key that begins now fails for who is behind
/// ("Best practices when using SAS").
const BACK_DATED: SignedDuration = SignedDuration::from_mins(15);
/// How long the operator's own looks are signed for.
const OWN: SignedDuration = SignedDuration::from_mins(15);

/// Azure's own blob endpoints ("Azure Storage endpoints", all clouds).
const AZURES_OWN: &[&str] = &[
    ".core.windows.net",
    ".core.usgovcloudapi.net",
    ".core.chinacloudapi.cn",
    ".storage.azure.net",
];

/// Where the store is tried out.
const PROBE_BLOB: &str = "valet-probe";

/// What signs.
#[derive(Clone)]
pub enum Credentials {
    /// The account's key.
    Key(SharedKey),
    /// The operator's own identity, by delegation keys.
    Identity(Arc<Identity>),
    /// Nothing, for this reason.
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

/// A container and the credentials that sign for it.
pub struct AzureBlob {
    store: AzureBlobStore,
    credentials: Credentials,
    http: Http,
    /// Whether its owner may not send the operator anywhere.
    is_tenants: bool,
    /// Whether requests that change something may be sent, also to an endpoint that is not Azure's.
    may_change: bool,
    /// What the store's clock shows.
    clock: StoreClock,
    /// Whether a probe came to its end.
    is_tried: AtomicBool,
    capabilities: Arc<Capabilities>,
    /// Whether the store refuses a source to copy from that the sender may not read, once that was tried.
    refuses_unsigned: Mutex<Option<bool>>,
    /// What a round trip with real keys found, if one was made.
    canary: Mutex<Option<Canary>>,
    /// Of an identity: the delegation key, and when it was fetched.
    delegation: AsyncMutex<Option<(Timestamp, Arc<Delegation>)>>,
}

impl AzureBlob {
    /// Takes the settings, the credentials and, of a store whose owner may not send the operator anywhere, where its
    /// requests may go. Nothing is read or sent yet.
    pub fn new(store: AzureBlobStore, credentials: Credentials, outward: Option<Outward>) -> Self {
        let revocation = match (&credentials, &store.stored_access_policy) {
            (Credentials::Identity(_), _) => {
                "revoke the account's user delegation keys, or take the identity's role away, which ends every other key of theirs, too"
            }
            (_, Some(_)) => {
                "remove the stored access policy that spec.azureBlob.storedAccessPolicy names, which ends every other key of the store, too"
            }
            (_, None) => "regenerate the account key that signed, which ends every other key that it signed, too",
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
            may_change: outward.as_ref().is_none_or(Outward::may_change),
            clock: StoreClock::default(),
            is_tried: AtomicBool::new(false),
            http: Http::new(outward),
            capabilities,
            refuses_unsigned: Mutex::default(),
            canary: Mutex::default(),
            delegation: AsyncMutex::default(),
        }
    }

    /// The account's address, without a slash at its end.
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

    /// Where the operator talks to it.
    fn own_base(&self) -> String {
        self.base(self.store.endpoint.as_ref())
    }

    /// Whether that is Azure itself.
    fn is_azures_own(&self) -> bool {
        is_of(&self.own_base(), AZURES_OWN)
    }

    /// Whether the operator may send requests that change something: to an endpoint that a tenant chose only with the
    /// platform team's consent.
    fn may_change(&self) -> bool {
        self.may_change || self.is_azures_own()
    }

    /// Where workloads talk to it.
    fn public_base(&self) -> String {
        self.base(self.store.public_endpoint.as_ref().or(self.store.endpoint.as_ref()))
    }

    /// A signed URL of a blob.
    fn signed_url(&self, base: &str, permit: &Permit<'_>, pen: Pen<'_>) -> Result<String, SignError> {
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
    ) -> Permit<'a> {
        Permit {
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

    /// Signs for this address of the account, and for use from these addresses.
    async fn sign_for(&self, request: &SigningRequest, base: &str, ip: Option<&str>) -> Result<Signed, SignError> {
        let Lifetime { issued_at, expires_at } = request.lifetime;
        if expires_at <= issued_at {
            return Err(SignError::Refused("the lifetime is not positive".into()));
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
                // Without it the store does not know what kind of blob to make. It is not signed.
                let headers = vec![("x-ms-blob-type".to_owned(), "BlockBlob".to_owned())];
                (self.permit(blob, permissions, start, expires_at, base), "PUT", headers)
            }
            Ask::Download {
                mode: DownloadMode::Credentials,
                ..
            } => {
                return Err(SignError::Refused(
                    "there are no credentials to lend on this store".into(),
                ));
            }
            Ask::Download { version, response, .. } => {
                let permit = Permit {
                    version: version.as_deref(),
                    response,
                    ..self.permit(blob, "r", start, expires_at, base)
                };
                (permit, "GET", Vec::new())
            }
            Ask::Upload { .. } => {
                return Err(SignError::Refused(
                    "Azure Blob Storage takes uploads by PUT only".into(),
                ));
            }
        };
        let permit = Permit { ip, ..permit };
        let url = match &self.credentials {
            Credentials::Unusable(why) => return Err(unusable(why)),
            Credentials::Key(key) => {
                let pen = Pen::Account(key, self.store.stored_access_policy.as_deref());
                self.signed_url(base, &permit, pen)?
            }
            Credentials::Identity(identity) => {
                let delegation = self.delegation(identity).await?;
                if delegation.expiry < expires_at {
                    // The key changed since the decision; the next decision knows its end.
                    return Err(SignError::Refused(
                        "the delegation key changed meanwhile and ends before the key would".into(),
                    ));
                }
                let permit = Permit {
                    start: start.max(delegation.start),
                    ..permit
                };
                self.signed_url(base, &permit, Pen::Delegation(&delegation.key))?
            }
        };
        Ok(Signed {
            key: Key::Request {
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
                return ObjectFact::Unreachable("the account has no such container".into());
            }
            (404, _) => return ObjectFact::Absent,
            (401 | 403, _) => {
                return match self.clock.skew().filter(|skew| is_skewed(Some(*skew))) {
                    Some(skew) => ObjectFact::ClockSkewed(skewed(skew)),
                    None => ObjectFact::Hidden,
                };
            }
            (status, _) => return ObjectFact::Unreachable(format!("it answered {status}")),
        }
        let text = |name: &str| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
        let modified = text("last-modified").and_then(|t| http_date(&t));
        // Without a Date the store's clock has to be believed.
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

/// What an upload's signature permits. Of the constraints the one on overwriting is all that a signature can express.
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
            "a shared access signature cannot hold an upload to its type, length or checksum".into(),
        ));
    }
    Ok(match overwrite {
        Overwrite::Forbid => "c",
        Overwrite::Allow => "w",
    })
}

/// A blob's name that the service and every client read alike ("Naming and referencing containers, blobs, and metadata").
fn readable_alike(key: &ObjectKey) -> Result<&str, SignError> {
    let key = key.as_str();
    if key.contains('\\') {
        return Err(SignError::Impossible(
            "spec.key has a '\\', which Azure Blob Storage and its clients take for a '/'; name the object without it".into(),
        ));
    }
    if key.split('/').any(|segment| segment.ends_with('.')) {
        return Err(SignError::Impossible(
            "spec.key has a segment that ends with '.', which clients of Azure Blob Storage drop; name the object without it".into(),
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

/// The address of a store, if it is none of Azure's own.
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
        // What is not known is not there. Before the first probe nothing is signed that rests on it (`rests_on_trial`).
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
            // Delegation keys come and go, and what they have signed is good until its end.
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
            // What was seen once holds until something else is seen.
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

    fn rests_on_trial(&self) -> bool {
        // Workloads' endpoint may be another store than the operator's.
        let is_azures = self.is_azures_own() && is_of(&self.public_base(), AZURES_OWN);
        self.store.unsigned_headers == UnsignedHeaders::Refuse && !is_azures
    }

    fn canary(&self) -> BoxFuture<'_, Canary> {
        async {
            if !self.may_change() {
                return Canary::untried(format!("{ONLY_READ}, and this check writes"), false);
            }
            if let Some(skew) = self.clock.skew().filter(|skew| is_skewed(Some(*skew))) {
                return Canary::untried(skewed(skew), true);
            }
            let found = self.round_trip(PROBE_BLOB).await;
            *self.canary.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
            found
        }
        .boxed()
    }

    fn look<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        self.look_at(access.key()).boxed()
    }
}
