//! Provider for Google Cloud Storage. It signs V4 URLs for PUT and GET requests, and POST forms. A service account
//! key or Google's IAM makes the signature. The provider uses Google's XML API, because a signed URL is a request to
//! this API.

mod conformance;
mod form;
mod headers;
mod key;
mod probe;
mod signer;
mod source;
mod tokens;
mod v4;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use ::http::Method;
use aws_lc_rs::digest::{SHA256, digest};
use futures::{FutureExt, future::BoxFuture};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::OnceCell;

pub use key::ServiceAccountKey;
pub use source::from_environment;
pub use tokens::Source;

use self::{
    headers::{get_query, no_credentials, put_headers, session_headers},
    signer::{GcsSigner, Google, Iam},
    tokens::{Tokens, ask, request},
};
use super::{
    Finding, Probed, Provider,
    clock::StoreClock,
    probe::{ONLY_READ, WriteOnce},
};
use crate::{
    api::{
        AddressingStyle, Ask, Capabilities, Capability, DownloadMode, GcsStore, ObservedObject, Remedies,
        ResumableUploads, UploadConstraints, UploadMode,
    },
    conformance::{ConformanceReport, Missing},
    core::{
        Access, AllowedRequest, Credential, Form, Lifetime, ObjectFact, SignError, Signed, SignedUrl, SigningRequest,
        second,
    },
    net::{
        EgressPolicy,
        client::{Answer, Http, is_of},
    },
};

/// The endpoint of a store that does not set an endpoint.
const ENDPOINT: &str = "https://storage.googleapis.com";
const GOOGLES: &[&str] = &[".googleapis.com"];
/// The default address of Google's IAM. An environment variable of the operator can set a different address.
const IAM: &str = "https://iamcredentials.googleapis.com";
/// A signed URL is valid for at most 7 days, in seconds (Google documentation, "Canonical requests",
/// `X-Goog-Expires`).
const MAX_EXPIRES_SECONDS: i64 = 604_800;
/// A URL that Google's IAM signed is valid for at most 12 hours, in seconds. Google replaces the keys that IAM signs
/// with, and the signatures of an old key then become invalid ("projects.serviceAccounts.signBlob").
const MAX_EXPIRES_SECONDS_OF_IAM: i64 = 43_200;
/// The maximum size of an object is 5 TiB (Google Cloud Storage documentation, "Quotas & limits").
const MAX_UPLOAD_BYTES: i64 = 5 << 40;
/// An object key can have at most this number of bytes in UTF-8 ("About Cloud Storage objects").
const MAX_KEY_BYTES: usize = 1024;
/// The number of hexadecimal digits of a fingerprint. With 16 digits, two different texts practically never have
/// equal fingerprints.
const FINGERPRINT_DIGITS: usize = 16;
/// The object key that probes use if the store does not set `probeKey`.
const PROBE_KEY: &str = "valet-probe";

/// A Google Cloud Storage bucket and the account that signs for it.
pub struct Gcs {
    store: GcsStore,
    http: Http,
    pen: GcsSigner,
    capabilities: Arc<Capabilities>,
    /// The clock of the store. Valet reads the time from the `Date` headers of the store's answers.
    clock: StoreClock,
    /// This is true if Valet is allowed to send write requests to an endpoint outside Google.
    may_change: bool,
    /// This is true if at least one probe of the store has finished.
    is_tried: AtomicBool,
    /// This is true if the store refuses unsigned headers. It is `None` until a probe has found out.
    refuses_unsigned: Mutex<Option<bool>>,
    /// The behavior of the store for write-once uploads. It is `None` until a probe has found out.
    write_once: Mutex<Option<WriteOnce>>,
    /// The result of the last conformance check. It is `None` before the first check.
    canary: Mutex<Option<ConformanceReport>>,
    /// A POST form for a key prefix must not write outside this prefix. The value is true if another process of Valet
    /// found that the store enforces this.
    keeps_below: AtomicBool,
}

/// Returns true if the operator's endpoint and the workloads' endpoint both belong to Google. Only then does Valet
/// rely on Google's documentation instead of its own checks.
fn is_googles(store: &GcsStore) -> bool {
    [&store.endpoint, &store.public_endpoint]
        .into_iter()
        .flatten()
        .all(|endpoint| is_of(endpoint, &[".googleapis.com"]))
}

/// A store with this capability never lets a POST form for a key prefix write outside this prefix.
const BELOW: Missing = Missing::Form(Capability::KeyPrefix);

/// Which of the store's two endpoints receives a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Workload,
    Operator,
}

impl Gcs {
    /// Creates the provider from the store's settings, a source of credentials and the address of Google's IAM. If a
    /// tenant owns the store, `outward` is set. The provider then sends requests only to hosts that this egress
    /// policy permits. The function itself reads nothing and sends no request.
    pub fn new(store: GcsStore, source: Source, iam: Option<&str>, outward: Option<EgressPolicy>) -> Self {
        let may_change = outward.as_ref().is_none_or(EgressPolicy::may_change);
        let sign_as = store.credentials.as_ref().and_then(|c| c.sign_as.clone());
        let pen = match (source, sign_as) {
            (Source::Key(key), None) => GcsSigner::Key(key),
            (source, account) => {
                let source = match source {
                    // A service account key file names its own token endpoint, and a tenant can write this file.
                    // Therefore Valet checks that the token endpoint belongs to Google.
                    Source::Key(key) if !may_change && !is_of(&key.token_uri.to_string(), GOOGLES) => {
                        Source::Unusable("the token_uri of the service account key is not an address of Google, and the operator does not use this token_uri for an ObjectStore; remove spec.gcs.credentials.signAs, or ask the platform team to start the operator with --tenant-store-requests=All".into())
                    }
                    source => source,
                };
                // A tenant can provide the service account key file. Therefore, the egress policy applies to the token
                // endpoint in this file. The platform team sets the address of the metadata server and the addresses
                // in the federation file. Therefore, Valet does not apply the egress policy to these addresses.
                let tokens = match &source {
                    Source::Key(_) => Http::new(outward.clone()),
                    _ => Http::new(None),
                };
                GcsSigner::Google(Box::new(Google {
                    account: OnceCell::new_with(account),
                    iam: Iam {
                        endpoint: iam.unwrap_or(IAM).trim_end_matches('/').to_owned(),
                        http: Http::new(None),
                    },
                    tokens: Tokens::new(source, tokens),
                }))
            }
        };
        Self {
            capabilities: Arc::new(capabilities(&store, &pen)),
            store,
            http: Http::new(outward),
            pen,
            clock: StoreClock::default(),
            may_change,
            is_tried: AtomicBool::new(false),
            refuses_unsigned: Mutex::new(None),
            write_once: Mutex::new(None),
            canary: Mutex::new(None),
            keeps_below: AtomicBool::new(false),
        }
    }

    fn probe_key(&self) -> &str {
        self.store.probe_key.as_deref().unwrap_or(PROBE_KEY)
    }

    /// Builds a request for this object key. The caller sets the HTTP method.
    fn request(&self, target: Target, key: &str) -> v4::Request {
        self.place(target, &format!("/{key}"))
    }

    /// Builds a request for a path in the bucket.
    fn place(&self, target: Target, rest: &str) -> v4::Request {
        let own = self.store.endpoint.as_deref().unwrap_or(ENDPOINT);
        let endpoint = match target {
            Target::Operator => own,
            Target::Workload => self.store.public_endpoint.as_deref().unwrap_or(own),
        };
        let endpoint = endpoint.trim_end_matches('/');
        let (scheme, authority) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        let bucket = &self.store.bucket;
        let (authority, path) = match self.store.addressing_style {
            AddressingStyle::VirtualHost => (format!("{bucket}.{authority}"), rest.to_owned()),
            AddressingStyle::Path => (authority.to_owned(), format!("/{bucket}{rest}")),
        };
        v4::Request {
            scheme: scheme.to_owned(),
            authority,
            path,
            ..v4::Request::default()
        }
    }

    /// Signs a request and returns the complete signed URL.
    async fn signed(&self, request: &v4::Request, lifetime: Lifetime) -> Result<String, SignError> {
        let account = self.pen.account().await?;
        let unsigned = v4::prepare(request, &account, lifetime);
        let signature = self.pen.sign(unsigned.string_to_sign.as_bytes()).await?;
        Ok(unsigned.with(&signature))
    }

    async fn form(
        &self,
        target: Target,
        key: &str,
        constraints: &UploadConstraints,
        lifetime: Lifetime,
    ) -> Result<Signed, SignError> {
        let (fields, range) = form::conditions(key, constraints)?;
        let account = self.pen.account().await?;
        let range = [form::Condition::Range(range)];
        let unsigned = form::prepare((&self.store.bucket, key), &fields, &range, &account, lifetime);
        let signature = self.pen.sign(unsigned.policy.as_bytes()).await?;
        let place = self.place(target, "/");
        Ok(Signed {
            credential: Credential::Form {
                url: SignedUrl::new(format!("{}://{}{}", place.scheme, place.authority, place.path)),
                fields: Form::new(unsigned.with(&signature)),
            },
            provider: self.name(),
        })
    }

    /// Signs a credential. `target` selects the operator's endpoint or the workloads' endpoint.
    async fn key_for(&self, target: Target, request: &SigningRequest) -> Result<Signed, SignError> {
        let lifetime = request.lifetime;
        let most = self.capabilities.max_expiration_seconds;
        if !(1..=most).contains(&lifetime.seconds()) {
            return Err(SignError::Refused(format!(
                "the lifetime of the credential must be between 1 and {most} seconds"
            )));
        }
        let key = request.key.as_str();
        let mut wanted = self.request(target, key);
        match &request.ask {
            Ask::Upload { mode, constraints, .. } => match mode {
                UploadMode::PostForm => return self.form(target, key, constraints, lifetime).await,
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
            Ask::Download {
                mode: DownloadMode::Credentials,
                ..
            } => return Err(no_credentials()),
            Ask::Download { version, response, .. } => {
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

    /// Sends a request with a signed URL that expires after one minute. The caller can add unsigned headers.
    ///
    /// The operator's own requests use signed URLs, because a tenant can own the endpoint. A tenant who receives such
    /// a request cannot use its signature for any other request.
    async fn send(
        &self,
        method: &'static str,
        key: &str,
        signed: &[(&str, &str)],
        unsigned: &[(&str, &str)],
    ) -> Result<Answer, SignError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let wanted = v4::Request {
            method,
            headers: signed.iter().map(owned).collect(),
            ..self.request(Target::Operator, key)
        };
        let now = second(Timestamp::now());
        let lifetime = Lifetime {
            issued_at: now,
            expires_at: now + SignedDuration::from_mins(1),
        };
        let url = self.signed(&wanted, lifetime).await?;
        let verb = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = request(verb, &url, &[signed, unsigned].concat(), Bytes::new())?;
        let answer = ask(&self.http, "the store", request).await?;
        if let Some(theirs) = probe::date(&answer.headers) {
            self.clock.saw(theirs);
        }
        Ok(answer)
    }

    /// Returns true if the operator's endpoint belongs to Google.
    fn is_googles_own(&self) -> bool {
        self.store.endpoint.as_deref().is_none_or(|e| is_of(e, GOOGLES))
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    fn may_change(&self) -> bool {
        self.may_change || self.is_googles_own()
    }
}

fn capabilities(store: &GcsStore, pen: &GcsSigner) -> Capabilities {
    Capabilities {
        enforced: [
            Capability::ContentType,
            Capability::ContentLength,
            Capability::ContentLengthRange,
            Capability::ChecksumMD5,
            Capability::WriteOnce,
            Capability::Version,
            Capability::ResponseHeaders,
            Capability::SignedHeadersOnly,
        ]
        .into(),
        multipart: None,
        // In a resumable upload, Google enforces only these constraints. Google ignores all further signed headers of
        // the upload session.
        resumable: (store.resumable_uploads == ResumableUploads::Tolerate).then(|| {
            [
                Capability::ContentType,
                Capability::WriteOnce,
                Capability::SignedHeadersOnly,
            ]
            .into()
        }),
        post_form: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                // All settings of a POST form are form fields, so no unsigned header can change what the store does.
                // In a PUT request, such headers exist.
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        credentials: None,
        only_read: false,
        wants_checksums: false,
        remedies: Remedies {
            resumable: Some("to set spec.gcs.resumableUploads: Tolerate"),
            ..Remedies::default()
        },
        max_expiration_seconds: match pen {
            GcsSigner::Key(_) => MAX_EXPIRES_SECONDS,
            GcsSigner::Google(_) => MAX_EXPIRES_SECONDS_OF_IAM,
        },
        max_upload_bytes: MAX_UPLOAD_BYTES,
        max_key_bytes: MAX_KEY_BYTES,
        revocation: match pen {
            GcsSigner::Key(_) => {
                "delete the service account key that signed the credential; all other credentials with this service account key also become invalid"
            }
            GcsSigner::Google(_) => {
                "remove the access to the object from the service account that signed the credential, or disable this service account; all other credentials of a disabled service account also become invalid"
            }
        },
    }
}

impl Provider for Gcs {
    fn name(&self) -> &'static str {
        "gcs"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        let is_tried = self.is_tried.load(Ordering::Acquire);
        // If a probe could not find out whether the store has a capability, the capability counts as missing. Before
        // the first probe, the capability counts as present. This is safe, because Valet signs nothing that depends
        // on the capability before the first probe.
        let holds = |seen: Option<bool>| seen.unwrap_or(is_googles(&self.store) || !is_tried);
        let has_signed_headers_only = holds(*lock(&self.refuses_unsigned));
        let has_write_once = holds(match &*lock(&self.write_once) {
            Some(WriteOnce::Enforced) => Some(true),
            Some(WriteOnce::Missing(_)) => Some(false),
            Some(WriteOnce::Unknown(_)) | None => None,
        });
        let canary = lock(&self.canary).clone().unwrap_or_default();
        // In Google Cloud Storage an object key is a sequence of bytes, and `..` has no special meaning. For a store
        // outside Google, a conformance check must confirm that a form cannot write outside its prefix.
        let keeps_below = is_googles(&self.store) || canary.holds(BELOW) || self.keeps_below.load(Ordering::Relaxed);
        let is_plain = has_signed_headers_only && has_write_once && self.may_change();
        if is_plain && canary.missing.is_empty() && !keeps_below {
            return self.capabilities.clone();
        }
        let mut can = (*self.capabilities).clone();
        if keeps_below && let Some(form) = &mut can.post_form {
            form.insert(Capability::KeyPrefix);
        }
        can.only_read = !self.may_change();
        for (has, capability) in [
            (has_signed_headers_only, Capability::SignedHeadersOnly),
            (has_write_once, Capability::WriteOnce),
        ] {
            if !has {
                can.enforced.remove(&capability);
                can.resumable.as_mut().map(|sessions| sessions.remove(&capability));
            }
        }
        canary.narrow(&mut can);
        Arc::new(can)
    }

    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async {
            self.pen.is_ready().await?;
            // A service account key does not expire. If Google's IAM signs instead, the access token for IAM expires,
            // but the signed URL stays valid.
            Ok(None)
        }
        .boxed()
    }

    fn requires_remote_signing(&self) -> bool {
        // If there is no service account key, Google's IAM signs. Each signature then needs one request to IAM.
        matches!(self.pen, GcsSigner::Google(_))
    }

    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.key_for(Target::Workload, request).boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        async move {
            let who = self.pen.print().await?;
            let v4::Request {
                scheme,
                authority,
                path,
                ..
            } = self.place(Target::Workload, "/");
            let all = format!("{salt}\n{who}\n{scheme}://{authority}{path}");
            let mut digits = v4::hex(digest(&SHA256, all.as_bytes()).as_ref());
            digits.truncate(FINGERPRINT_DIGITS);
            Ok(Some(digits))
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Probed> {
        async {
            let probed = probe::probe(self, self.probe_key()).await;
            // If this probe has no result, Valet keeps the result of the last probe that had one.
            if probed.refuses_unsigned.is_some() {
                *lock(&self.refuses_unsigned) = probed.refuses_unsigned;
            }
            if probed.finding == Finding::Usable && probed.skew.is_none() {
                self.is_tried.store(true, Ordering::Release);
            }
            probed
        }
        .boxed()
    }

    fn requires_probe(&self) -> bool {
        // A probe is not needed for Google's own hosts, because Google documents that it refuses unsigned headers
        // ("Canonical requests", required headers).
        !is_googles(&self.store)
    }

    fn seed_capabilities(&self, capabilities: &[String]) {
        let keeps = capabilities.iter().any(|name| *name == BELOW.name());
        self.keeps_below.store(keeps, Ordering::Relaxed);
    }

    fn write_once_requires_probe(&self) -> bool {
        !is_googles(&self.store)
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }

    fn canary(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if !self.may_change() {
                return ConformanceReport::untried(format!("{ONLY_READ}; this check sends write requests"), false);
            }
            if let Some(why) = self.clock.trouble() {
                return ConformanceReport::untried(why, true);
            }
            let found = conformance::canary(self, self.probe_key()).await;
            *lock(&self.canary) = Some(found.clone());
            found
        }
        .boxed()
    }

    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        async {
            let answer = match self.send("HEAD", access.key().as_str(), &[], &[]).await {
                Ok(answer) => answer,
                Err(SignError::Credentials { message, .. }) => return ObjectFact::Unreachable(message),
                Err(e) => return ObjectFact::Unreachable(e.to_string()),
            };
            match answer.status {
                200 => present(&answer),
                404 => ObjectFact::Absent,
                401 | 403 => self.clock.trouble().map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed),
                status => ObjectFact::Unreachable(format!(
                    "the store answered status {status} to a HEAD request; check spec.gcs.endpoint and spec.gcs.addressingStyle"
                )),
            }
        }
        .boxed()
    }
}

/// Reads the object's properties from the headers of an answer ("HTTP headers and query string parameters for XML
/// API").
fn present(answer: &Answer) -> ObjectFact {
    let text = |name: &str| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
    // Valet uses the size of the stored object. The `Content-Length` header can have a different value, because
    // Google can decompress an object while it sends the object.
    let size = text("x-goog-stored-content-length").or_else(|| text("content-length"));
    let modified = text("last-modified")
        .and_then(|t| jiff::fmt::rfc2822::parse(&t).ok())
        .map(|z| z.timestamp());
    let hash = |kind: &str| {
        let hashes = answer.headers.get_all("x-goog-hash").iter();
        let hashes = hashes.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        hashes
            .filter_map(|one| one.trim().split_once('='))
            .find(|(name, _)| *name == kind)
            .map(|(_, value)| value.to_owned())
    };
    // Valet computes the age of the object relative to the `Date` header of the answer. If the answer has no `Date`
    // header, Valet uses the operator's clock.
    let age = modified.map(|m| {
        probe::date(&answer.headers)
            .unwrap_or_else(Timestamp::now)
            .duration_since(m)
    });
    ObjectFact::Present {
        object: ObservedObject {
            size: size.and_then(|s| s.parse().ok()),
            e_tag: text("etag"),
            content_type: text("content-type"),
            checksum_md5: hash("md5"),
            checksum_crc32c: hash("crc32c"),
            version: text("x-goog-generation"),
            last_modified_time: modified.map(Time),
            ..ObservedObject::default()
        }
        .checked(),
        modified_at: age.and_then(|age| Timestamp::now().checked_sub(age).ok()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
