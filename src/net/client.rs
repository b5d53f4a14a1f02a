//! An HTTP client for single requests. The client has a short timeout. An egress policy can limit the addresses to
//! which the client connects.

use std::time::Duration;

use aws_sdk_s3::config::AppName;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{Entry, USER_AGENT},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::client::proxy::matcher::Matcher;

use super::{
    connections::{Connections, MAX_HEADERS, ProxyUnsupported, TIMEOUT, connections},
    egress::EgressDenied,
    policy::EgressPolicy,
};

/// The timeout for fetching credentials. It covers all requests that are necessary to fetch the credentials. After
/// the timeout, Valet uses the current credentials if they are still valid.
pub const SOURCE_TIMEOUT: Duration = Duration::from_secs(4);
/// The maximum size of an answer's body, in bytes. The largest expected answers are tokens, and a token has only a
/// few kilobytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Returns the value of the User-Agent header. Like Kubernetes clients, Valet sends its program name, its version and
/// its platform.
pub fn user_agent() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("valet/{} ({}/{arch})", env!("CARGO_PKG_VERSION"), std::env::consts::OS)
}

/// Returns the application name that the AWS SDK adds to its User-Agent header.
pub fn app_name() -> Option<AppName> {
    AppName::new(concat!("valet-", env!("CARGO_PKG_VERSION"))).ok()
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The reason why a request got no usable answer. The message contains no text from the request or the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The egress policy does not permit the address of the host.
    #[error("{0}")]
    EgressDenied(EgressDenied),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Slow,
    #[error("the connection to the server failed (connection refused or reset, no TLS, or unknown host)")]
    Connection,
    /// The client is allowed to send only read requests. This error shows a programming error in Valet, because the
    /// caller must not create a write request for such a client.
    #[error("the operator sends only read requests to this endpoint")]
    WriteDenied,
    /// The proxy does not answer, or it refuses to connect to the host.
    #[error(
        "the proxy in HTTPS_PROXY does not answer or refuses the connection; if the host needs no proxy, add the host to NO_PROXY"
    )]
    ProxyUnsupported,
    /// The client does not trust the server's certificate, or the certificate is not valid for the host.
    #[error("{0}")]
    Untrusted(&'static str),
    /// The machine has no certificate authorities, so the client cannot verify certificates.
    #[error(
        "this machine has no CA certificates, so TLS is not possible; install CA certificates, or set SSL_CERT_FILE"
    )]
    NoTrustRoots,
    #[error("the server's answer is not valid HTTP")]
    Malformed,
    /// The answer's body is larger than `MAX_ANSWER`, or its headers are larger than `MAX_HEADERS`.
    #[error(
        "the server's answer is too long (more than {headers} KiB of headers, or {total} KiB in total); check that the endpoint is an object store",
        headers = MAX_HEADERS / 1024,
        total = MAX_ANSWER / 1024
    )]
    TooLong,
}

/// An HTTP client. It reuses connections and does not follow redirects.
pub struct Http {
    client: Option<Connections>,
    egress: Option<EgressPolicy>,
    only_reads: bool,
}

impl Http {
    /// Creates a client. If `egress` is set, the client sends requests only to hosts that this egress policy
    /// permits. The client then uses no proxy, because a proxy would resolve host names itself.
    ///
    /// If `egress` is `None`, HTTPS requests use the proxy from the environment (`HTTPS_PROXY`, `NO_PROXY`).
    pub fn new(egress: Option<EgressPolicy>) -> Self {
        let client = match &egress {
            Some(egress) => {
                let make = || connections(Some(egress.rules()), None, false);
                egress.clients.plain.get_or_init(make).clone()
            }
            None => connections(None, Some(Matcher::from_env()), false),
        };
        Self {
            client,
            egress,
            only_reads: false,
        }
    }

    /// If `only_reads` is true, the client refuses every request except GET and HEAD.
    #[must_use]
    pub fn only_reading(self, only_reads: bool) -> Self {
        Self { only_reads, ..self }
    }

    /// Sends a request once, without a retry.
    ///
    /// # Errors
    /// Returns [`Unanswered`] if there is no usable answer.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        if self.only_reads && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Unanswered::WriteDenied);
        }
        if let (Entry::Vacant(name), Ok(own)) = (
            request.headers_mut().entry(USER_AGENT),
            HeaderValue::from_str(&user_agent()),
        ) {
            name.insert(own);
        }
        tokio::time::timeout(TIMEOUT, self.send_request(request))
            .await
            .map_err(|_| Unanswered::Slow)?
    }

    async fn send_request(&self, request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        // This check is for hosts that are IP addresses. The DNS resolver checks only host names, because an IP
        // address needs no DNS lookup.
        if let Some(egress) = &self.egress {
            let host = request.uri().host().unwrap_or_default();
            egress.check(host).await.map_err(Unanswered::EgressDenied)?;
        }
        let client = self.client.as_ref().ok_or(Unanswered::NoTrustRoots)?;
        let answer = client.request(request).await.map_err(|e| unanswered(&e))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| match e.is::<LengthLimitError>() {
                true => Unanswered::TooLong,
                false => Unanswered::Malformed,
            })?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }
}

fn unanswered(error: &(dyn std::error::Error + 'static)) -> Unanswered {
    let causes = || std::iter::successors(Some(error), |e| e.source());
    if let Some(inward) = causes().find_map(|e| e.downcast_ref::<EgressDenied>()) {
        return Unanswered::EgressDenied(inward.clone());
    }
    if let Some(why) = certificate_problem(error) {
        return Unanswered::Untrusted(why);
    }
    if causes().any(|e| e.is::<ProxyUnsupported>()) {
        return Unanswered::ProxyUnsupported;
    }
    let hyper = causes().find_map(|e| e.downcast_ref::<hyper::Error>());
    match hyper {
        Some(e) if e.is_parse_too_large() => Unanswered::TooLong,
        Some(e) if e.is_parse() => Unanswered::Malformed,
        _ => Unanswered::Connection,
    }
}

/// Returns true if the host of an endpoint is in one of these domains. Each domain in the list begins with a dot.
pub fn is_of(endpoint: &str, domains: &[&str]) -> bool {
    let uri = endpoint.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    domains.iter().any(|domain| host.ends_with(domain))
}

/// Describes the problem with a server's certificate, if the connection failed because of the certificate. The
/// description contains no text from the certificate, because the client does not trust the certificate.
pub fn certificate_problem(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    // Valet recognizes the error by its text. Valet cannot use the type of the error, because the errors come from
    // two versions of the library `rustls` and are inside an `io::Error`.
    let said = std::iter::successors(Some(error), |e| e.source()).find_map(|e| {
        let text = e.to_string();
        let (_, why) = text.split_once("invalid peer certificate: ")?;
        Some(why.to_ascii_lowercase())
    })?;
    Some(match said {
        said if said.starts_with("unknownissuer") => {
            "the server's TLS certificate is from an unknown authority; to trust this authority, add the authority's certificate to the chart value caBundle or to the file in SSL_CERT_FILE"
        }
        said if said.contains("expired") => "the server's TLS certificate has expired; renew the certificate",
        said if said.contains("not valid for name") || said.starts_with("notvalidforname") => {
            "the server's TLS certificate is for another name; the certificate must contain the host name of the endpoint"
        }
        _ => "the server's TLS certificate is not valid",
    })
}

/// Returns true if nobody on the network can read a request to this address. This is the case for HTTPS, and for
/// addresses of the machine itself.
pub fn is_private(uri: &Uri) -> bool {
    let is_here = matches!(uri.host(), Some("127.0.0.1" | "[::1]" | "localhost"));
    uri.authority().is_some() && (uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_here)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Checks the error texts of rustls 0.23 (`CertificateError`) in the form in which connection errors contain
    /// them.
    #[test]
    fn tls_error_says_what_is_wrong_with_the_certificate() {
        for (said, told) in [
            ("invalid peer certificate: UnknownIssuer", "from an unknown authority"),
            (
                "invalid peer certificate: certificate expired: verification time 1795500000 (UNIX), but certificate is not valid after 1795400000 (100000 seconds ago)",
                "has expired",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"s3.internal\"; certificate is only valid for DnsName(\"evil\")",
                "for another name",
            ),
            ("invalid peer certificate: BadSignature", "is not valid"),
        ] {
            let found = certificate_problem(&io::Error::new(io::ErrorKind::InvalidData, said));
            assert!(
                found.is_some_and(|why| why.contains(told) && !why.contains("evil")),
                "{said}: {found:?}"
            );
        }
        assert_eq!(certificate_problem(&io::Error::other("connection refused")), None);
    }

    #[tokio::test]
    async fn client_that_only_reads_refuses_write_requests() {
        let client = Http::new(None).only_reading(true);
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
            let request = Request::builder()
                .method(method)
                .uri("http://127.0.0.1:9")
                .body(Full::default())
                .unwrap();
            assert_eq!(client.send(request).await.err(), Some(Unanswered::WriteDenied));
        }
        let request = Request::builder()
            .uri("http://127.0.0.1:9")
            .body(Full::default())
            .unwrap();
        assert_eq!(client.send(request).await.err(), Some(Unanswered::Connection));
    }
}
