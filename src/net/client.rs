//! An HTTP client for single requests. The client has a short timeout. An egress policy can limit the addresses that
//! it connects to.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_sdk_s3::config::AppName;
use aws_smithy_runtime_api::client::dns::ResolveDns;
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{
    HeaderMap, HeaderValue, Request, Uri,
    header::{Entry, USER_AGENT},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body, Bytes},
    rt,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{Connected, Connection, HttpConnector, dns::Name, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::{EgressDenied, EgressPolicy, dns};

/// The timeout of one request. It includes the time to connect and to read the answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for fetching credentials, including all requests that this needs. After the timeout, Valet uses the
/// current credentials if they still work.
pub const SOURCE_TIMEOUT: Duration = Duration::from_secs(4);
/// The maximum size of an answer's body, in bytes. Tokens are the largest answers, and they have only a few
/// kilobytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The maximum size of all headers of an answer, in bytes. Valet needs a limit because the server can belong to a
/// tenant. Amazon S3 allows 2 KB of user metadata in the headers.
pub const MAX_HEADERS: usize = 16 * 1024;

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

pub(super) type Connections<B = Full<Bytes>> = Client<HttpsConnector<Way>, B>;

/// An HTTP client. It reuses connections and does not follow redirects.
pub struct Http {
    client: Option<Connections>,
    outward: Option<EgressPolicy>,
}

impl Http {
    /// Creates a client. If `outward` is set, the client sends requests only to hosts that this egress policy
    /// permits. The client then uses no proxy, because a proxy would resolve host names itself.
    ///
    /// If `outward` is `None`, HTTPS requests use the proxy from the environment (`HTTPS_PROXY`, `NO_PROXY`).
    pub fn new(outward: Option<EgressPolicy>) -> Self {
        let client = match &outward {
            Some(outward) => {
                let make = || connections(Some(outward.without_clients()), None, false);
                outward.clients.plain.get_or_init(make).clone()
            }
            None => connections(None, Some(Matcher::from_env()), false),
        };
        Self { client, outward }
    }

    /// Sends a request once, without a retry.
    ///
    /// # Errors
    /// Returns [`Unanswered`] if there is no usable answer.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        if let (Entry::Vacant(name), Ok(own)) = (
            request.headers_mut().entry(USER_AGENT),
            HeaderValue::from_str(&user_agent()),
        ) {
            name.insert(own);
        }
        tokio::time::timeout(TIMEOUT, self.talk(request))
            .await
            .map_err(|_| Unanswered::Slow)?
    }

    async fn talk(&self, request: Request<Full<Bytes>>) -> Result<Answer, Unanswered> {
        // This check is for hosts that are IP addresses. They need no DNS lookup, so the DNS resolver cannot check
        // them.
        if let Some(outward) = &self.outward {
            let host = request.uri().host().unwrap_or_default();
            outward.check(host).await.map_err(Unanswered::EgressDenied)?;
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

/// Creates a pool of connections. HTTPS requests use the proxy from the environment. If `plain_too` is true, plain
/// HTTP requests also use a proxy.
pub(super) fn connections<B>(
    outward: Option<EgressPolicy>,
    proxies: Option<Matcher>,
    plain_too: bool,
) -> Option<Connections<B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new_with_resolver(Resolver(outward));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(TIMEOUT));
    // If the machine has no certificate authorities, no connection is possible, so the function returns `None`. Each
    // request then reports this problem.
    HttpsConnectorBuilder::new().with_native_roots().ok().map(|builder| {
        let way = Way {
            straight: connector,
            proxies: proxies.map(Arc::new),
            plain_too,
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(way);
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .http1_max_buf_size(MAX_HEADERS)
            .build(connector)
    })
}

fn unanswered(error: &(dyn std::error::Error + 'static)) -> Unanswered {
    let causes = || std::iter::successors(Some(error), |e| e.source());
    if let Some(inward) = causes().find_map(|e| e.downcast_ref::<EgressDenied>()) {
        return Unanswered::EgressDenied(inward.clone());
    }
    if let Some(why) = untrusted(error) {
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
pub fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    // Valet recognizes the error by its text. It cannot use the type of the error, because `rustls` errors come from
    // two versions of the library, and an `io::Error` contains them.
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

/// Returns true if only the receiver can read a request to this address. This is the case for HTTPS, and for
/// addresses of the machine itself.
pub fn is_private(uri: &Uri) -> bool {
    let is_here = matches!(uri.host(), Some("127.0.0.1" | "[::1]" | "localhost"));
    uri.authority().is_some() && (uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_here)
}

/// Connects to a host directly, or through a tunnel (`CONNECT`) of a proxy. If the client uses a tunnel, the proxy
/// sees only the host name.
///
/// Plain HTTP requests use a proxy only if `plain_too` is true. Such requests usually go to metadata servers, which a
/// proxy cannot reach.
#[derive(Clone)]
pub(super) struct Way {
    straight: HttpConnector<Resolver>,
    proxies: Option<Arc<Matcher>>,
    plain_too: bool,
}

/// A connection. It also records whether a proxy forwards the requests on this connection.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    to_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.to_proxy)
    }
}

impl rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }
}

/// Adds the credentials for the proxy to a plain HTTP request, if a proxy forwards this request.
pub(super) fn proxy_authorization<B>(proxies: &Matcher, request: &mut Request<B>) {
    if request.uri().scheme() == Some(&Scheme::HTTP)
        && let Some(proxy) = proxies.intercept(request.uri())
        && let Some(who) = proxy.basic_auth()
    {
        request
            .headers_mut()
            .insert(http::header::PROXY_AUTHORIZATION, who.clone());
    }
}

/// The error if the client could not open a tunnel through the proxy. The error does not contain the proxy's answer.
#[derive(Debug)]
struct ProxyUnsupported;

impl fmt::Display for ProxyUnsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no tunnel through the proxy")
    }
}

impl std::error::Error for ProxyUnsupported {}

impl Service<Uri> for Way {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.straight.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let is_tunnel = to.scheme() == Some(&Scheme::HTTPS);
        let proxies = self.proxies.as_ref().filter(|_| is_tunnel || self.plain_too);
        let stream = |to_proxy| move |io| Stream { io, to_proxy };
        let Some(proxy) = proxies.and_then(|p| p.intercept(&to)) else {
            return self.straight.call(to).map_ok(stream(false)).err_into().boxed();
        };
        if !is_tunnel {
            let connected = self.straight.call(proxy.uri().clone());
            return connected
                .map_ok(stream(true))
                .map_err(|_| ProxyUnsupported.into())
                .boxed();
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.straight.clone());
        if let Some(who) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(who.clone());
        }
        tunnel
            .call(to)
            .map_ok(stream(false))
            .map_err(|_| ProxyUnsupported.into())
            .boxed()
    }
}

/// A DNS resolver that refuses private and denied addresses. It checks the addresses for each new connection, because
/// the DNS records of a name can change after an earlier check.
#[derive(Clone)]
struct Resolver(Option<EgressPolicy>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let outward = self.0.clone();
        async move {
            let addresses: Vec<SocketAddr> = match outward {
                Some(outward) => {
                    let found = outward.resolve_dns(name.as_str()).await?;
                    found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
                }
                None => {
                    let found = tokio::net::lookup_host((name.as_str(), 0));
                    tokio::time::timeout(dns::TIMEOUT, found).await??.collect()
                }
            };
            Ok(addresses.into_iter())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
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
            let found = untrusted(&io::Error::new(io::ErrorKind::InvalidData, said));
            assert!(
                found.is_some_and(|why| why.contains(told) && !why.contains("evil")),
                "{said}: {found:?}"
            );
        }
        assert_eq!(untrusted(&io::Error::other("connection refused")), None);
    }
}
