//! A bucket in memory: its settings, and the requests that the operator sends to its server.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use jiff::Timestamp;
use valet::{
    api::{Capabilities, Reason},
    core::SignError,
    net::{
        EgressPolicy,
        client::{Answer, Http},
    },
    provider::{
        Multipart, Provider,
        findings::{Documented, Findings},
    },
};

use super::{capabilities, config::MemoryStore, scheme::Request};

/// The object key that probes use.
pub const PROBE_KEY: &str = "valet-probe";
/// The operator's own requests have signed URLs that expire after this number of seconds.
const OWN_REQUEST_SECONDS: i64 = 60;

/// An access key. It has no `Debug`, so that code cannot print the secret by accident.
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

/// A bucket in memory and the access key that signs for it.
pub struct Memory {
    pub store: MemoryStore,
    pub key: AccessKey,
    pub http: Http,
    /// The results of the probes and conformance checks.
    pub findings: Findings,
    /// This is true if the operator is allowed to send write requests to the server.
    pub allows_writes: bool,
}

impl Provider for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        self.findings.apply(
            &capabilities::all(),
            Documented {
                unsigned_headers_are_harmless: false,
                refuses_unsigned: false,
                write_once: false,
                keeps_prefix: false,
                may_write: self.allows_writes,
            },
        )
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}

impl Memory {
    /// Creates the provider without any request.
    pub fn new(store: MemoryStore, key: AccessKey, egress: Option<EgressPolicy>) -> Self {
        let allows_writes = egress.as_ref().is_none_or(EgressPolicy::allows_writes);
        Self {
            store,
            key,
            http: Http::new(egress).only_reading(!allows_writes),
            findings: Findings::default(),
            allows_writes,
        }
    }

    /// Returns the path of an object.
    pub fn path(&self, key: &str) -> String {
        format!("/{}/{key}", self.store.bucket)
    }

    /// Signs a request for the operator's endpoint and sends it. The caller can add unsigned headers.
    pub async fn send(
        &self,
        request: &Request,
        unsigned: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, SignError> {
        let expires = Timestamp::now().as_second() + OWN_REQUEST_SECONDS;
        let target = request.signed(&self.key.id, &self.key.secret, expires);
        let signed = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let headers: Vec<_> = signed.chain(unsigned.iter().copied()).collect();
        let url = format!("{}{target}", self.store.endpoint);
        let answer = self.send_raw(request.method, &url, &headers, body).await?;
        let date = answer.headers.get("date").and_then(|date| date.to_str().ok());
        if let Some(time) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
            self.findings.clock.observe(time.timestamp());
        }
        Ok(answer)
    }

    /// Sends a request without changes.
    pub async fn send_raw(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, SignError> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|_| SignError::Refused("the request could not be built".into()))?;
        let answer = self.http.send(request).await.map_err(|e| unreachable(e.to_string()))?;
        match answer.status {
            500.. => Err(unreachable(format!("the store answered {}", answer.status))),
            _ => Ok(answer),
        }
    }
}

/// Returns the error code in an answer.
pub fn code(answer: &Answer) -> &str {
    let code = answer.headers.get("x-memory-code");
    code.and_then(|code| code.to_str().ok()).unwrap_or_default()
}

fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}
