//! A Google Cloud Storage bucket: its settings, and the requests that the operator sends to it.

use std::sync::Arc;

use ::http::Method;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;

use super::{
    capabilities, google, responses,
    signing_account::{GcsSigner, Google, Iam},
    tokens::{Source, Tokens, request, send_request},
    v4,
};
use crate::{
    api::{AddressingStyle, Capabilities, store::gcs::GcsStore},
    core::{Lifetime, SignError, second},
    net::{
        EgressPolicy,
        client::{Answer, Http},
    },
    provider::{
        abilities::Provider,
        findings::{Documented, Findings},
    },
};

/// The object key that probes use if the store does not set `probeKey`.
const PROBE_KEY: &str = "valet-probe";
/// The default address of Google's IAM. An environment variable of the operator can set a different address.
const IAM: &str = "https://iamcredentials.googleapis.com";

/// A Google Cloud Storage bucket and the account that signs for it.
pub struct Gcs {
    pub(super) store: GcsStore,
    pub(super) http: Http,
    pub(super) signing_key: GcsSigner,
    /// The capabilities that Valet assumes before any probe.
    pub(super) assumed: Capabilities,
    /// This is true if Valet is allowed to send write requests to the operator's endpoint.
    allows_writes: bool,
    /// The results of the probes and conformance checks.
    pub(super) findings: Findings,
}

/// Which of the store's two endpoints receives a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Workload,
    Operator,
}

impl Provider for Gcs {
    fn name(&self) -> &'static str {
        "gcs"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        // Google documents that it refuses unsigned headers ("Canonical requests", required headers) and that it
        // supports write-once uploads ("Request preconditions"). In Google Cloud Storage, an object key is a sequence
        // of bytes, so `..` in an object key has no special meaning. Therefore a POST form for a prefix cannot write
        // outside this prefix.
        let is_googles = google::is_store(&self.store);
        self.findings.apply(
            &self.assumed,
            Documented {
                unsigned_headers_are_harmless: false,
                refuses_unsigned: is_googles,
                write_once: is_googles,
                keeps_prefix: is_googles,
                may_write: self.allows_writes(),
            },
        )
    }
}

impl Gcs {
    /// Creates the provider from the store's settings, a source of credentials and the address of Google's IAM. If a
    /// tenant owns the store, `egress` is set. The provider then sends requests only to hosts that this egress
    /// policy permits. The function itself reads nothing and sends no request.
    pub fn new(store: GcsStore, source: Source, iam: Option<&str>, egress: Option<EgressPolicy>) -> Self {
        let allows_writes = egress.as_ref().is_none_or(EgressPolicy::allows_writes);
        let sign_as = store.credentials.as_ref().and_then(|c| c.sign_as.clone());
        let signing_key = match (source, sign_as) {
            (Source::Key(key), None) => GcsSigner::Key(key),
            (source, account) => {
                let source = match source {
                    // A service account key file names its own token endpoint, and a tenant can write this file.
                    // Therefore Valet checks that the token endpoint belongs to Google.
                    Source::Key(key) if !allows_writes && !google::is_endpoint(&key.token_uri.to_string()) => {
                        Source::Unusable("the token_uri of the service account key is not an address of Google; for an ObjectStore, the operator requests access tokens only from Google; remove spec.gcs.credentials.signAs, or ask the platform team to start the operator with --tenant-store-requests=All".into())
                    }
                    source => source,
                };
                // A tenant can provide the service account key file. Therefore, the egress policy applies to the token
                // endpoint in this file. The platform team sets the address of the metadata server and the addresses
                // in the federation file. Therefore, Valet does not apply the egress policy to these addresses.
                let tokens = match &source {
                    Source::Key(_) => Http::new(egress.clone()),
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
        let allows_writes = allows_writes || google::is_own_endpoint(&store);
        Self {
            assumed: capabilities::of(&store, &signing_key),
            store,
            http: Http::new(egress).only_reading(!allows_writes),
            signing_key,
            allows_writes,
            findings: Findings::default(),
        }
    }

    pub(super) fn probe_key(&self) -> &str {
        self.store.probe_key.as_deref().unwrap_or(PROBE_KEY)
    }

    /// Builds a request for this object key. The caller sets the HTTP method.
    pub(super) fn request(&self, target: Target, key: &str) -> v4::Request {
        self.location(target, &format!("/{key}"))
    }

    /// Builds a request for a path in the bucket.
    pub(super) fn location(&self, target: Target, rest: &str) -> v4::Request {
        let own = self.store.endpoint.as_deref().unwrap_or(google::ENDPOINT);
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
    pub(super) async fn signed(&self, request: &v4::Request, lifetime: Lifetime) -> Result<String, SignError> {
        let account = self.signing_key.account().await?;
        let unsigned = v4::prepare(request, &account, lifetime);
        let signature = self.signing_key.sign(unsigned.string_to_sign.as_bytes()).await?;
        Ok(unsigned.with(&signature))
    }

    /// Sends a request with a signed URL that expires after one minute. The caller can add unsigned headers.
    ///
    /// The operator's own requests use signed URLs, because a tenant can own the endpoint. A tenant who receives such
    /// a request cannot use its signature for any other request.
    pub(super) async fn send(
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
        let answer = send_request(&self.http, "the store", request).await?;
        if let Some(store_time) = responses::date(&answer.headers) {
            self.findings.clock.observe(store_time);
        }
        Ok(answer)
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    pub(super) fn allows_writes(&self) -> bool {
        self.allows_writes
    }
}
