//! Provider for Amazon S3 and S3-compatible stores. It signs POST forms and presigned URLs for PUT and GET requests
//! (AWS Signature Version 4, query string).

mod assume_role;
mod capabilities;
mod conformance;
mod credentials_cache;
mod form;
mod multipart;
mod prefix;
mod presigned;
mod probe;
mod responses;
mod session_credentials;
mod session_policy_check;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    presigning::PresigningConfig,
    types::ChecksumMode,
};
use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use credentials_cache::{Clients, Session, Sessions};
use prefix::BELOW;
use responses::{DateOfAnswer, DateOfStore, absence, is_of_a_clock, refused, tag_as_md5, unreachable};

use super::{
    Multipart, Probed, Provider,
    clock::StoreClock,
    probe::{ONLY_READ, WriteOnce},
};
use crate::{
    api::{
        AddressingStyle, Ask, AssumeRole, Capabilities, Capability, ObservedObject, Reason, S3Store, UnsignedHeaders,
        UploadMode,
    },
    conformance::ConformanceReport,
    core::{Access, AllowedRequest, Credential, ObjectFact, ObjectKey, SignError, Signed, SignedUrl, SigningRequest},
    net::{EgressPolicy, aws, client::app_name},
};

/// A presigned URL is valid for at most 7 days, in seconds (Amazon S3 API, "Authenticating Requests: Using Query
/// Parameters", `X-Amz-Expires`).
const MAX_EXPIRES_SECONDS: i64 = 604_800;
/// An object that is uploaded with one PUT request can have at most 5 GiB (Amazon S3 User Guide, "Uploading
/// objects").
const MAX_PUT_BYTES: i64 = 5 << 30;
/// An object key can have at most this number of bytes in UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;
/// The timeout of one request to the store. After a timeout, the store counts as unreachable.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// The object key that probes use if the store does not set `probeKey`.
const PROBE_KEY: &str = "valet-probe";
/// If Valet assumes the role with the credentials of another session, the new session lasts at most this number of
/// seconds (IAM User Guide, "Roles terms and concepts": role chaining).
const LONGEST_CHAINED: i64 = 3600;

/// The message for a store with `assumeRole` if a tenant chose the STS endpoint.
const NO_STS: &str = "spec.s3.credentials.assumeRole needs requests to STS, but the operator sends only read requests to the endpoint of an ObjectStore; remove assumeRole, or ask the platform team to set --tenant-store-requests=All";

/// An S3 bucket and the credentials that sign for it.
pub struct S3 {
    store: S3Store,
    sessions: Sessions,
    /// The policy limits the hosts to which the provider sends requests. `None` means that the provider can send
    /// requests to any host.
    outward: Option<EgressPolicy>,
    capabilities: Arc<Capabilities>,
    /// The clock of the store. Valet reads the time from the `Date` headers of the store's answers.
    clock: StoreClock,
    /// This is true if at least one probe of the store has finished.
    is_tried: AtomicBool,
    /// This is true if the store refuses unsigned headers. It is `None` until a probe has found out.
    refuses_unsigned: Mutex<Option<bool>>,
    /// The behavior of the store for write-once uploads. It is `None` until a probe has found out.
    write_once: Mutex<Option<WriteOnce>>,
    /// This is true if the bucket accepts only uploads with a checksum, for example because of a default retention
    /// (Object Lock).
    wants_checksums: AtomicBool,
    /// The result of the last conformance check. It is `None` before the first check.
    canary: Mutex<Option<ConformanceReport>>,
    /// This is true if a probe found that the store enforces session policies.
    confined: AtomicBool,
    /// A POST form for a key prefix must not write outside this prefix. The value is true if another process of Valet
    /// found that the store enforces this.
    keeps_below: AtomicBool,
    /// The result of the last conformance check for entity tags. It is true if the store's entity tags are MD5
    /// checksums, and `None` if no check found this out.
    tags_are_md5: Mutex<Option<bool>>,
}

impl S3 {
    /// Creates the provider from the store's settings and a source of credentials, without any request.
    ///
    /// The argument `outward` is the egress policy of a store that a tenant owns. With this policy, the provider sends
    /// requests only to hosts that the policy permits.
    pub fn new(store: S3Store, credentials: SharedCredentialsProvider, outward: Option<EgressPolicy>) -> Self {
        let role = store.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
        let capabilities = Arc::new(capabilities::of(role));
        Self {
            store,
            sessions: Sessions::new(credentials),
            outward,
            capabilities,
            clock: StoreClock::default(),
            is_tried: AtomicBool::new(false),
            refuses_unsigned: Mutex::new(None),
            write_once: Mutex::new(None),
            wants_checksums: AtomicBool::new(false),
            canary: Mutex::new(None),
            confined: AtomicBool::new(false),
            keeps_below: AtomicBool::new(false),
            tags_are_md5: Mutex::new(None),
        }
    }

    fn role(&self) -> Option<&AssumeRole> {
        self.store.credentials.as_ref()?.assume_role.as_ref()
    }

    /// Returns true if an unsigned header cannot do harm in this store, even if the store obeys unsigned headers.
    fn is_safe(&self) -> bool {
        self.role().is_some() || self.store.unsigned_headers == UnsignedHeaders::Tolerate
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    fn may_change(&self) -> bool {
        let is_own = responses::is_amazons(self.store.endpoint.as_deref(), "");
        is_own || self.outward.as_ref().is_none_or(EgressPolicy::may_change)
    }

    /// Returns an error if the operator is not allowed to send write requests to the store.
    fn must_change(&self) -> Result<(), SignError> {
        match self.may_change() {
            true => Ok(()),
            false => Err(SignError::Impossible(ONLY_READ.to_owned())),
        }
    }

    /// Returns a report with the reason why a conformance check cannot run now. Returns `None` if the check can run.
    fn not_to_be_tried(&self) -> Option<ConformanceReport> {
        if !self.may_change() {
            return Some(ConformanceReport::untried(
                format!("{ONLY_READ}; this check sends write requests"),
                false,
            ));
        }
        Some(ConformanceReport::untried(self.clock.trouble()?, true))
    }

    /// Returns true if the operator is allowed to send requests to STS. If a tenant chose the STS endpoint, the
    /// platform team must have allowed these requests.
    fn may_assume(&self) -> bool {
        let endpoint = self.role().and_then(|role| role.endpoint.as_ref());
        let endpoint = endpoint.or(self.store.endpoint.as_ref());
        endpoint.is_none_or(|e| responses::is_amazons_sts(e))
            || self.outward.as_ref().is_none_or(EgressPolicy::may_change)
    }

    fn timeouts() -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(LOOK_TIMEOUT)
            .operation_timeout(LOOK_TIMEOUT)
            .build()
    }

    /// Returns an HTTP client for the AWS SDK. If an egress policy limits the store's hosts, the client connects only
    /// to permitted hosts.
    fn http(&self) -> SharedHttpClient {
        self.outward.as_ref().map_or_else(aws::shared, aws::guarded)
    }

    fn sts(&self, role: &AssumeRole, credentials: &Credentials) -> aws_sdk_sts::Client {
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .region(Region::new(self.store.region.clone()))
            .credentials_provider(credentials.clone())
            .timeout_config(Self::timeouts());
        config.set_app_name(app_name());
        config = config.http_client(self.http());
        if let Some(endpoint) = role.endpoint.as_ref().or(self.store.endpoint.as_ref()) {
            config = config.endpoint_url(endpoint.trim_end_matches('/'));
        }
        aws_sdk_sts::Client::from_conf(config.build())
    }

    fn client(&self, credentials: &Credentials, endpoint: Option<&String>) -> Client {
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.store.region.clone()))
            .credentials_provider(credentials.clone())
            .force_path_style(self.store.addressing_style == AddressingStyle::Path)
            // By default, the AWS SDK adds a checksum to a request. Valet turns this off, because a signature must
            // contain only what the grant specifies.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // By default, the AWS SDK signs with a session of its own for a directory bucket. Valet turns this off.
            // The session expires after five minutes, and the signed URL does not show this expiry.
            .disable_s3_express_session_auth(true)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .interceptor(DateOfStore(self.clock.clone()))
            .timeout_config(Self::timeouts());
        config.set_app_name(app_name());
        config = config.http_client(self.http());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint.trim_end_matches('/'));
        }
        Client::from_conf(config.build())
    }

    fn probe_key(&self) -> &str {
        self.store.probe_key.as_deref().unwrap_or(PROBE_KEY)
    }

    /// Returns true if the entity tag of an object is its MD5 after an upload with one PUT request. Amazon documents
    /// this behavior. For a store outside Amazon, a conformance check must have confirmed it.
    fn tags_are_md5(&self) -> bool {
        let seen = *lock(&self.tags_are_md5);
        seen.unwrap_or_else(|| responses::is_amazons(self.store.endpoint.as_deref(), &self.store.bucket))
    }

    fn public_endpoint(&self) -> Option<&String> {
        self.store.public_endpoint.as_ref().or(self.store.endpoint.as_ref())
    }

    /// Returns the reason why the store refused a HEAD request. The method first checks whether clock skew is the
    /// reason. An answer to HEAD has no body, so the method then sends a GET request. The answer to GET shows whether
    /// the credentials are the reason.
    async fn hidden(&self, session: &Session, key: &ObjectKey) -> ObjectFact {
        if let Some(why) = self.clock.trouble() {
            return ObjectFact::ClockSkewed(why);
        }
        let get = session.talker.get_object().bucket(&self.store.bucket).key(key.as_str());
        match get.range("bytes=0-0").send().await {
            Err(e) => self.clock_trouble(&e).map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed),
            // The credentials can read the object with GET but not with HEAD. The likely reason is a proxy in front
            // of the store that blocks HEAD requests.
            Ok(_) => ObjectFact::Unreachable(
                "the store refused a HEAD request with status 403 but allowed a GET request with the same credentials; check proxies and firewalls between the operator and the store".into(),
            ),
        }
    }

    /// Returns the message for a refusal that clock skew causes or can cause. Returns `None` if the refusal has a
    /// different cause.
    fn clock_trouble<E: ProvideErrorMetadata>(&self, error: &SdkError<E>) -> Option<String> {
        let said = || {
            "the store rejected the time of the request; synchronize the clocks of the operator and the store (NTP)"
                .to_owned()
        };
        self.clock.trouble().or_else(|| is_of_a_clock(error).then(said))
    }

    async fn session(&self) -> Result<Arc<Session>, SignError> {
        self.session_until(None).await
    }

    async fn session_until(&self, until: Option<Timestamp>) -> Result<Arc<Session>, SignError> {
        let clients = |credentials: &Credentials| Clients {
            signer: self.client(credentials, self.public_endpoint()),
            talker: self.client(credentials, self.store.endpoint.as_ref()),
            sts: self.role().map(|role| self.sts(role, credentials)),
        };
        self.sessions.current(until, clients).await
    }

    /// Returns the maximum lifetime of a session for one grant, in seconds.
    fn longest(role: &AssumeRole, assuming: &Credentials) -> i64 {
        match assuming.session_token() {
            Some(_) => role.duration_seconds.min(LONGEST_CHAINED),
            None => role.duration_seconds,
        }
    }

    /// Assumes the role with a session policy for one object key or prefix.
    async fn assume(&self, session: &Session, request: &SigningRequest) -> Result<Option<Credentials>, SignError> {
        let (Some(sts), Some(role)) = (&session.sts, self.role()) else {
            return Ok(None);
        };
        if !self.may_assume() {
            return Err(SignError::Credentials {
                reason: Reason::EndpointNotAllowed,
                message: NO_STS.to_owned(),
            });
        }
        let longest = Self::longest(role, &session.credentials);
        assume_role::credentials(sts, role, longest, &self.store.bucket, request)
            .await
            .map(Some)
    }

    /// Signs a request for a grant or for a conformance check.
    async fn sign_request(&self, request: &SigningRequest) -> Result<Signed, SignError> {
        let session = self.session().await?;
        let lifetime = request.lifetime;
        let end = session.end(Timestamp::now());
        if session.sts.is_none() && end.is_some_and(|end| end < lifetime.expires_at) {
            // The session changed after Valet decided to sign. The next reconcile uses the expiry of the new session.
            return Err(SignError::Refused(
                "the store's credentials were replaced, and the new credentials expire before the requested expiry"
                    .into(),
            ));
        }
        let seconds = u64::try_from(lifetime.seconds()).ok().filter(|s| *s > 0);
        let seconds = seconds
            .ok_or_else(|| SignError::Refused("the expiry of the credential is not after its start time".into()))?;
        let presigning = PresigningConfig::builder()
            .start_time(SystemTime::from(lifetime.issued_at))
            .expires_in(Duration::from_secs(seconds))
            .build()
            .map_err(|e| SignError::Refused(e.to_string()))?;
        let (bucket, key) = (&self.store.bucket, request.key.as_str());
        session_policy_check::vouch(self, &session, &request.ask).await?;
        let own = self.assume(&session, request).await?;
        let own = own.map(|credentials| (self.client(&credentials, self.public_endpoint()), credentials));
        let (signer, credentials) = own
            .as_ref()
            .map_or((&session.signer, &session.credentials), |(signer, credentials)| {
                (signer, credentials)
            });
        let given = |credential| Signed {
            credential,
            provider: self.name(),
        };
        let presigned = match &request.ask {
            ask if ask.is_for_credentials() => {
                if session.sts.is_none() {
                    // Valet never gives the credentials of the store itself to a client.
                    let why = "spec.s3.credentials.assumeRole is not set in the store, so Valet cannot issue temporary credentials";
                    return Err(SignError::Refused(why.into()));
                }
                let place = session_credentials::BucketLocation {
                    bucket,
                    region: &self.store.region,
                    endpoint: match self.public_endpoint() {
                        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
                        None => session_credentials::amazons_endpoint(&self.store.region, bucket).await?,
                    },
                    style: self.store.addressing_style,
                };
                return Ok(given(Credential::Credentials(session_credentials::entries(
                    credentials,
                    &place,
                    request,
                ))));
            }
            Ask::Upload { mode, constraints, .. } => match mode {
                UploadMode::Put => presigned::put(signer, bucket, key, constraints, presigning).await,
                UploadMode::Multipart => {
                    let parts = multipart::parts(signer, bucket, request, presigning).await?;
                    return Ok(given(Credential::Parts(parts)));
                }
                UploadMode::PostForm => {
                    let target = form::Target {
                        bucket,
                        region: &self.store.region,
                        key,
                    };
                    return Ok(given(Credential::Form {
                        url: form::action(signer, bucket, presigning).await?,
                        fields: form::sign(credentials, &target, constraints, lifetime)?,
                    }));
                }
                UploadMode::Resumable | UploadMode::Credentials => {
                    let mode = mode.as_str();
                    let why = format!("spec.mode: S3 stores do not support upload mode {mode}");
                    return Err(SignError::Refused(why));
                }
            },
            Ask::Download { version, response, .. } => {
                presigned::get(signer, bucket, key, version.clone(), response, presigning).await
            }
        }?;
        Ok(Signed {
            credential: Credential::Request {
                url: SignedUrl::new(presigned.uri().to_owned()),
                method: presigned.method().to_owned(),
                headers: presigned::headers(&presigned),
            },
            provider: self.name(),
        })
    }
}

/// Returns the address of the STS that the store names, if this STS does not belong to Amazon.
pub fn foreign_sts(store: &S3Store) -> Option<String> {
    let role = store.credentials.as_ref()?.assume_role.as_ref()?;
    let endpoint = role.endpoint.as_ref().or(store.endpoint.as_ref())?;
    let is_amazons = responses::is_amazons_sts(endpoint) || responses::is_amazons(Some(endpoint), &store.bucket);
    (!is_amazons).then(|| endpoint.clone())
}

impl Provider for S3 {
    fn name(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        let is_tried = self.is_tried.load(Ordering::Acquire);
        let is_documented = prefix::is_amazons(&self.store);
        // If a probe could not find out whether the store has a capability, the capability counts as missing. Before
        // the first probe, the capability counts as present. This is safe, because Valet signs nothing that depends
        // on the capability before the first probe.
        let holds = |seen: Option<bool>| seen.unwrap_or(is_documented || !is_tried);
        let has_signed_headers_only = self.is_safe() || holds(*lock(&self.refuses_unsigned));
        let has_write_once = holds(match &*lock(&self.write_once) {
            Some(WriteOnce::Enforced) => Some(true),
            Some(WriteOnce::Missing(_)) => Some(false),
            Some(WriteOnce::Unknown(_)) | None => None,
        });
        let may_change = self.may_change();
        let wants_checksums = self.wants_checksums();
        let canary = lock(&self.canary).clone().unwrap_or_default();
        let keeps_below = is_documented || canary.holds(BELOW) || self.keeps_below.load(Ordering::Relaxed);
        let is_plain = has_signed_headers_only && has_write_once && may_change && !wants_checksums;
        if is_plain && canary.missing.is_empty() && !keeps_below {
            return self.capabilities.clone();
        }
        let mut can = (*self.capabilities).clone();
        if keeps_below && let Some(form) = &mut can.post_form {
            form.insert(Capability::KeyPrefix);
        }
        let mut lacks = |has: bool, capability| {
            if !has {
                can.enforced.remove(&capability);
                can.multipart.as_mut().map(|parts| parts.remove(&capability));
            }
        };
        lacks(has_signed_headers_only, Capability::SignedHeadersOnly);
        lacks(has_write_once, Capability::WriteOnce);
        if !may_change {
            // To initiate and complete multipart uploads, the operator must send write requests. If the operator is
            // not allowed to send them, the store does not support multipart uploads.
            can.multipart = None;
            can.only_read = true;
        }
        can.wants_checksums = wants_checksums;
        canary.narrow(&mut can);
        Arc::new(can)
    }

    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        async {
            let session = self.session().await?;
            // If Valet assumes a role for each credential, the credential expires with the session of this role. It
            // stays valid after the credentials that assumed the role have expired.
            Ok(
                match self.role().map(|role| Self::longest(role, &session.credentials)) {
                    Some(own) => Timestamp::now().checked_add(SignedDuration::from_secs(own)).ok(),
                    None => session.end(Timestamp::now()),
                },
            )
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

    fn requires_remote_signing(&self) -> bool {
        // If the store has `assumeRole`, Valet must send a request to STS for each credential.
        self.role().is_some()
    }

    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.sign_request(request).boxed()
    }

    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        async move {
            // The credentials that assume a role need no long lifetime, because each grant has its own session.
            if self.role().is_none() {
                let _ = self.session_until(Some(until)).await;
            }
        }
        .boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        async move {
            let session = self.session().await?;
            let S3Store {
                bucket,
                region,
                addressing_style,
                ..
            } = &self.store;
            let role = self.role().map(|role| (&role.role_arn, &role.endpoint));
            let mut place = format!(
                "{bucket}\n{region}\n{addressing_style:?}\n{:?}\n{role:?}",
                self.public_endpoint()
            );
            // The KMS key is part of the fingerprint, because a session works only if it is allowed to use this KMS
            // key. If the store has no KMS key, Valet adds nothing to the fingerprint.
            if let Some(key) = self.role().and_then(|role| role.kms_key_arn.as_ref()) {
                place.push('\n');
                place.push_str(key);
            }
            Ok(Some(session_credentials::fingerprint(
                &session.credentials,
                &place,
                salt,
            )))
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Probed> {
        self.try_out().boxed()
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }

    fn requires_probe(&self) -> bool {
        // Amazon documents that it refuses unsigned headers ("Authenticating Requests: Using Query Parameters",
        // signed headers). Therefore Amazon's own hosts need no probe.
        !self.is_safe() && !prefix::is_amazons(&self.store)
    }

    fn write_once_requires_probe(&self) -> bool {
        !prefix::is_amazons(&self.store)
    }

    fn canary(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if let Some(untried) = self.not_to_be_tried() {
                return untried;
            }
            // The conformance check signs URLs for the operator's endpoint, because the operator possibly cannot
            // reach the public endpoint.
            let store = S3Store {
                public_endpoint: None,
                ..self.store.clone()
            };
            let inside = Self::new(store, self.sessions.source(), self.outward.clone());
            let (found, tags_are_md5) = conformance::canary(&inside, self.probe_key()).await;
            *lock(&self.canary) = Some(found.clone());
            *lock(&self.tags_are_md5) = tags_are_md5;
            found
        }
        .boxed()
    }

    fn seed_capabilities(&self, capabilities: &[String]) {
        let keeps = capabilities.iter().any(|name| *name == BELOW.name());
        self.keeps_below.store(keeps, Ordering::Relaxed);
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        async {
            let session = match self.session().await {
                Ok(session) => session,
                Err(e) => return ObjectFact::Unreachable(e.to_string()),
            };
            let date = DateOfAnswer::default();
            let answer = session
                .talker
                .head_object()
                .bucket(&self.store.bucket)
                .key(access.key().as_str())
                .checksum_mode(ChecksumMode::Enabled)
                .customize()
                .interceptor(date.clone())
                .send()
                .await;
            let head = match answer {
                Ok(head) => head,
                Err(e) => {
                    return match absence(&e) {
                        ObjectFact::Hidden => self.hidden(&session, access.key()).await,
                        fact => fact,
                    };
                }
            };
            let modified = head.last_modified().and_then(|t| Timestamp::from_second(t.secs()).ok());
            // Valet computes the age of the object relative to the `Date` header of the answer. If the answer has no
            // `Date` header, Valet uses the operator's clock.
            let age = modified.map(|m| date.seen().unwrap_or_else(Timestamp::now).duration_since(m));
            let modified_at = age.and_then(|age| Timestamp::now().checked_sub(age).ok());
            ObjectFact::Present {
                object: ObservedObject {
                    size: head.content_length(),
                    e_tag: head.e_tag().map(str::to_owned),
                    content_type: head.content_type().map(str::to_owned),
                    checksum_md5: self.tags_are_md5().then(|| tag_as_md5(&head)).flatten(),
                    checksum_sha256: head.checksum_sha256().map(str::to_owned),
                    version: head.version_id().filter(|v| *v != "null").map(str::to_owned),
                    last_modified_time: modified.map(Time),
                    ..ObservedObject::default()
                }
                .checked(),
                modified_at,
            }
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
