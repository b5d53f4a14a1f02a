//! An S3 bucket: its settings, its credentials, and the clients that send requests to it.

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;

use super::{
    amazon, capabilities,
    credentials_cache::{Clients, Session, Sessions},
    limits::REQUEST_TIMEOUT,
    responses::{DateOfStore, is_clock_error},
};
use crate::{
    api::{
        AddressingStyle, Capabilities, UnsignedHeaders,
        store::s3::{AssumeRole, S3Store},
    },
    core::SignError,
    net::{EgressPolicy, aws, client::app_name},
    provider::{
        abilities::{Multipart, Provider},
        findings::{Documented, Findings},
        lock::lock,
        probe::ONLY_READ,
    },
};

/// The object key that probes use if the store does not set `probeKey`.
const PROBE_KEY: &str = "valet-probe";

/// An S3 bucket and the credentials that sign for it.
pub struct S3 {
    pub(super) store: S3Store,
    pub(super) sessions: Sessions,
    /// The egress policy limits the hosts to which the provider sends requests. `None` means that the provider can send
    /// requests to any host.
    pub(super) egress: Option<EgressPolicy>,
    /// The capabilities that Valet assumes before any probe.
    assumed: Capabilities,
    /// The results of the probes and conformance checks.
    pub(super) findings: Findings,
    /// This is true if a probe found that the store enforces session policies.
    pub(super) sessions_are_confined: AtomicBool,
    /// The result of the last conformance check for entity tags. The value is true if the store's entity tags are MD5
    /// checksums. The value is `None` if no check found this out.
    tags_are_md5: Mutex<Option<bool>>,
}

impl Provider for S3 {
    fn name(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        // Amazon documents that S3 refuses unsigned headers ("Authenticating Requests: Using Query Parameters", signed
        // headers). Amazon also documents that S3 supports write-once uploads ("How to prevent object overwrites with
        // conditional writes"). An object key in Amazon S3 is a sequence of bytes, in which `..` has no special meaning
        // ("Naming Amazon S3 objects").
        let is_amazons = amazon::is_store(&self.store);
        self.findings.apply(
            &self.assumed,
            Documented {
                unsigned_headers_are_harmless: self.is_safe(),
                refuses_unsigned: is_amazons,
                write_once: is_amazons,
                keeps_prefix: is_amazons,
                may_write: self.allows_writes(),
            },
        )
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}

impl S3 {
    /// Creates the provider from the store's settings and a source of credentials, without any request.
    ///
    /// The argument `egress` is the egress policy of a store that a tenant owns. With this policy, the provider sends
    /// requests only to hosts that the policy permits.
    pub fn new(store: S3Store, credentials: SharedCredentialsProvider, egress: Option<EgressPolicy>) -> Self {
        let role = store.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
        Self {
            assumed: capabilities::of(role),
            store,
            sessions: Sessions::new(credentials),
            egress,
            findings: Findings::default(),
            sessions_are_confined: AtomicBool::new(false),
            tags_are_md5: Mutex::new(None),
        }
    }

    pub(super) fn role(&self) -> Option<&AssumeRole> {
        self.store.credentials.as_ref()?.assume_role.as_ref()
    }

    /// Returns true if Valet can sign for this store even if the store obeys unsigned headers. This requires a session
    /// policy for each signed URL (`assumeRole`), or the setting `unsignedHeaders: Tolerate`.
    pub(super) fn is_safe(&self) -> bool {
        self.role().is_some() || self.store.unsigned_headers == UnsignedHeaders::Tolerate
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    pub(super) fn allows_writes(&self) -> bool {
        let is_own = amazon::is_bucket(self.store.endpoint.as_deref(), "");
        is_own || self.egress.as_ref().is_none_or(EgressPolicy::allows_writes)
    }

    /// Returns an error if the operator is not allowed to send write requests to the store.
    pub(super) fn check_writes_allowed(&self) -> Result<(), SignError> {
        match self.allows_writes() {
            true => Ok(()),
            false => Err(SignError::Impossible(ONLY_READ.to_owned())),
        }
    }

    fn timeouts() -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(REQUEST_TIMEOUT)
            .operation_timeout(REQUEST_TIMEOUT)
            .build()
    }

    /// Returns an HTTP client for the AWS SDK. If an egress policy limits the store's hosts, the client connects only
    /// to permitted hosts.
    fn http(&self) -> SharedHttpClient {
        self.egress.as_ref().map_or_else(aws::shared, aws::guarded)
    }

    pub(super) fn client(&self, credentials: &Credentials, endpoint: Option<&String>) -> Client {
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.store.region.clone()))
            .credentials_provider(credentials.clone())
            .force_path_style(self.store.addressing_style == AddressingStyle::Path)
            // By default, the AWS SDK adds a checksum to a request. Valet turns this checksum off, because a signature
            // must contain only what the grant specifies.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // For a directory bucket, the AWS SDK by default creates a session and signs with this session. Valet turns
            // these sessions off, because they expire after five minutes and a signed URL does not show this expiry.
            .disable_s3_express_session_auth(true)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .interceptor(DateOfStore(self.findings.clock.clone()))
            .timeout_config(Self::timeouts());
        config.set_app_name(app_name());
        config = config.http_client(match self.allows_writes() {
            true => self.http(),
            false => aws::only_reading(self.http()),
        });
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint.trim_end_matches('/'));
        }
        Client::from_conf(config.build())
    }

    pub(super) fn sts(&self, role: &AssumeRole, credentials: &Credentials) -> aws_sdk_sts::Client {
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

    pub(super) fn probe_key(&self) -> &str {
        self.store.probe_key.as_deref().unwrap_or(PROBE_KEY)
    }

    /// Records the result of a conformance check for entity tags.
    pub(super) fn set_tags_are_md5(&self, found: Option<bool>) {
        *lock(&self.tags_are_md5) = found;
    }

    /// Returns true if the entity tag of an object is its MD5 after an upload with one PUT request. Amazon documents
    /// this behavior. For a store outside Amazon, a conformance check must have confirmed it.
    pub(super) fn tags_are_md5(&self) -> bool {
        let seen = *lock(&self.tags_are_md5);
        seen.unwrap_or_else(|| amazon::is_bucket(self.store.endpoint.as_deref(), &self.store.bucket))
    }

    pub(super) fn public_endpoint(&self) -> Option<&String> {
        self.store.public_endpoint.as_ref().or(self.store.endpoint.as_ref())
    }

    /// Returns the message for a refusal that clock skew causes or can cause. Returns `None` if the refusal has a
    /// different cause.
    pub(super) fn clock_trouble<E: ProvideErrorMetadata>(&self, error: &SdkError<E>) -> Option<String> {
        let said = || {
            "the store rejected the time of the request; synchronize the clocks of the operator and the store (NTP)"
                .to_owned()
        };
        self.findings
            .clock
            .problem()
            .or_else(|| is_clock_error(error).then(said))
    }

    pub(super) async fn session(&self) -> Result<Arc<Session>, SignError> {
        self.session_until(None).await
    }

    pub(super) async fn session_until(&self, until: Option<Timestamp>) -> Result<Arc<Session>, SignError> {
        let clients = |credentials: &Credentials| Clients {
            signer: self.client(credentials, self.public_endpoint()),
            operator: self.client(credentials, self.store.endpoint.as_ref()),
            sts: self.role().map(|role| self.sts(role, credentials)),
        };
        self.sessions.current(until, clients).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::Capability,
        conformance::{ConformanceReport, Missing},
        provider::s3::session_policy_check,
    };

    const KEY_PREFIX: Missing = Missing::Form(Capability::KeyPrefix);

    fn store(endpoint: Option<&str>, public: Option<&str>) -> S3Store {
        let all = json!({"bucket": "media", "region": "eu-west-1", "endpoint": endpoint, "publicEndpoint": public});
        serde_json::from_value(all).unwrap()
    }

    fn claims(s3: &S3) -> bool {
        s3.capabilities()
            .post_form
            .as_ref()
            .unwrap()
            .contains(&Capability::KeyPrefix)
    }

    /// For a store outside Amazon, a conformance check must first confirm that a form cannot write outside its prefix.
    /// This check may have run in a different process of Valet.
    #[test]
    fn form_for_prefix_needs_amazon_endpoints_or_a_conformance_check() {
        let s3 = |endpoint: Option<&str>| {
            let nobody = Credentials::new("-", "-", None, None, "test");
            S3::new(store(endpoint, None), SharedCredentialsProvider::new(nobody), None)
        };
        let (amazons, other) = (s3(None), s3(Some("https://s3.example")));
        assert!(claims(&amazons) && !claims(&other));
        let found = |enforced: bool, missing: bool| ConformanceReport {
            enforced: enforced.then(|| KEY_PREFIX.name()).into_iter().collect(),
            missing: missing.then_some(KEY_PREFIX).into_iter().collect(),
            ..ConformanceReport::default()
        };
        other.findings.set_report(found(false, false));
        assert!(!claims(&other));
        other.findings.set_report(found(true, false));
        assert!(claims(&other));
        amazons.findings.set_report(found(false, true));
        assert!(!claims(&amazons));

        let other = s3(Some("https://s3.example"));
        other.findings.seed(&["PostForm".into(), "KeyPrefix".into()]);
        assert!(!claims(&other));
        other.findings.seed(&["PostForm/KeyPrefix".into()]);
        assert!(claims(&other));
    }

    /// Creates a tenant's store. The store's endpoint is a local address that the egress policy permits.
    fn tenants(endpoint: &str, more: serde_json::Value) -> S3 {
        let mut all =
            json!({"bucket": "media", "region": "eu-west-1", "endpoint": endpoint, "addressingStyle": "Path"});
        let fields = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(fields);
        let key = Credentials::new("AKIA", "secret", None, None, "test");
        let egress = EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]);
        S3::new(
            serde_json::from_value(all).unwrap(),
            SharedCredentialsProvider::new(key),
            Some(egress),
        )
    }

    /// The test sends write requests without checking whether the operator is allowed to send them. The S3 client must
    /// refuse to send these requests.
    #[tokio::test]
    async fn client_sends_no_write_request_to_the_endpoint_of_a_tenant() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let s3 = tenants(&format!("http://{}", listener.local_addr().unwrap()), json!({}));
        let session = s3.session().await.unwrap();
        let put = session.operator.put_object().bucket("media").key("a");
        assert!(put.send().await.is_err());
        let delete = session.operator.delete_object().bucket("media").key("a");
        assert!(delete.send().await.is_err());
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "no connection was opened"
        );
    }

    /// Valet needs uploads to check whether a store enforces session policies. If the operator is not allowed to
    /// upload, Valet signs no credential that depends on a session policy.
    #[tokio::test]
    async fn session_policy_of_a_tenants_store_is_not_probed_with_uploads() {
        let role = json!({"credentials": {"assumeRole": {
            "roleArn": "arn:aws:iam::123456789012:role/own", "endpoint": "https://sts.amazonaws.com",
        }}});
        let s3 = tenants("http://127.0.0.1:9", role);
        let session = s3.session().await.unwrap();
        let shown = session_policy_check::probe_session(&s3, &session).await;
        let session_policy_check::Shown::NotProbedYet(error) = shown else {
            panic!("the probe of session policies must return NotProbedYet");
        };
        let said = format!("{error:?}");
        assert!(said.contains("--tenant-store-requests=All"), "{said}");
    }
}
