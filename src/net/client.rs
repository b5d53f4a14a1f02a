//! One request and its answer, within a few seconds, to where requests may go and nowhere else.

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

use super::{Inward, Outward, dns};

/// How long one request may take, with all that belongs to it: what needs longer is as good as away.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// How long fresh credentials may take, with all requests that they need. Those at hand go on then, if there are any.
pub const SOURCE_TIMEOUT: Duration = Duration::from_secs(4);
/// The most of an answer that is read. Tokens are the longest, some kilobytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The most of an answer's headers that is read, all of them together. Amazon S3 allows 2 KB of a user's own metadata, and a
/// tenant may be the one who answers.
pub const MAX_HEADERS: usize = 16 * 1024;

/// What Valet calls itself in requests: program, version and platform, as Kubernetes' own clients do.
pub fn user_agent() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("valet/{} ({}/{arch})", env!("CARGO_PKG_VERSION"), std::env::consts::OS)
}

/// What the AWS SDK adds to the name that it gives itself.
pub fn app_name() -> Option<AppName> {
    AppName::new(concat!("valet-", env!("CARGO_PKG_VERSION"))).ok()
}

/// What was answered.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer. Nothing of the request or of what came back is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It would have gone inwards.
    #[error("{0}")]
    Inward(Inward),
    /// Too slow.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Slow,
    /// No connection, or one that broke.
    #[error("the connection failed (refused, reset, no TLS, or the host is not known)")]
    Connection,
    /// The proxy is away, or does not let it through.
    #[error(
        "the proxy that HTTPS_PROXY names is away or refuses the way there; if none is needed for that host, name it in NO_PROXY"
    )]
    NotByProxy,
    /// Somebody is there, and does not prove who.
    #[error("{0}")]
    Untrusted(&'static str),
    /// Nothing to check certificates with.
    #[error("this machine has no certificate authorities, so no TLS is possible")]
    Rootless,
    /// Not HTTP.
    #[error("the answer was not understood")]
    Malformed,
    /// More than is read.
    #[error(
        "the answer is too long (more than {} KiB of headers, or {} KiB in all); is the endpoint a store's?",
        MAX_HEADERS / 1024,
        MAX_ANSWER / 1024
    )]
    TooLong,
}

/// What makes connections and keeps them.
pub(super) type Connections<B = Full<Bytes>> = Client<HttpsConnector<Way>, B>;

/// A client that follows no redirects and keeps connections.
pub struct Http {
    client: Option<Connections>,
    outward: Option<Outward>,
}

impl Http {
    /// With `outward`, requests go only there, and straight: a proxy would look names up by itself. Without, those by https
    /// go through the proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), if it names one.
    pub fn new(outward: Option<Outward>) -> Self {
        let client = match &outward {
            Some(outward) => {
                let make = || connections(Some(outward.without_clients()), None, false);
                outward.clients.plain.get_or_init(make).clone()
            }
            None => connections(None, Some(Matcher::from_env()), false),
        };
        Self { client, outward }
    }

    /// Sends a request once.
    ///
    /// # Errors
    /// [`Unanswered`].
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
        // The connector asks no resolver about a host that is an address.
        if let Some(outward) = &self.outward {
            let host = request.uri().host().unwrap_or_default();
            outward.check(host).await.map_err(Unanswered::Inward)?;
        }
        let client = self.client.as_ref().ok_or(Unanswered::Rootless)?;
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

/// Connections of a kind. `plain_too`: whether what goes by plain HTTP goes through a proxy, too, if the environment names
/// one for it.
pub(super) fn connections<B>(
    outward: Option<Outward>,
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
    // A machine without certificate authorities reaches nothing, and that is said when it is tried.
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
    if let Some(inward) = causes().find_map(|e| e.downcast_ref::<Inward>()) {
        return Unanswered::Inward(inward.clone());
    }
    if let Some(why) = untrusted(error) {
        return Unanswered::Untrusted(why);
    }
    if causes().any(|e| e.is::<NotByProxy>()) {
        return Unanswered::NotByProxy;
    }
    let hyper = causes().find_map(|e| e.downcast_ref::<hyper::Error>());
    match hyper {
        Some(e) if e.is_parse_too_large() => Unanswered::TooLong,
        Some(e) if e.is_parse() => Unanswered::Malformed,
        _ => Unanswered::Connection,
    }
}

/// Whether the host of an endpoint is in one of these domains, each of which begins with a dot.
pub fn is_of(endpoint: &str, domains: &[&str]) -> bool {
    let uri = endpoint.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    domains.iter().any(|domain| host.ends_with(domain))
}

/// What is wrong with a server's certificate, if that is why there is no connection. Of what the certificate says nothing is
/// repeated: a stranger has written it.
pub fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    // rustls' words for it; its error types come through two versions of the library, and as text through io::Error.
    let said = std::iter::successors(Some(error), |e| e.source()).find_map(|e| {
        let text = e.to_string();
        let (_, why) = text.split_once("invalid peer certificate: ")?;
        Some(why.to_ascii_lowercase())
    })?;
    Some(match said {
        said if said.starts_with("unknownissuer") => {
            "its TLS certificate is from an authority that the operator does not know; to trust one of your own, name it in the chart's caBundle, or in SSL_CERT_FILE"
        }
        said if said.contains("expired") => "its TLS certificate is over; renew it",
        said if said.contains("not valid for name") || said.starts_with("notvalidforname") => {
            "its TLS certificate is for another name than that of the endpoint"
        }
        _ => "its TLS certificate is not valid",
    })
}

/// Whether what is sent there is for nobody else to read: https, or this machine itself.
pub fn is_private(uri: &Uri) -> bool {
    let is_here = matches!(uri.host(), Some("127.0.0.1" | "[::1]" | "localhost"));
    uri.authority().is_some() && (uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_here)
}

/// Connects straight, or by a tunnel through a proxy (`CONNECT`), which sees the host and nothing of what is said. Only what
/// goes by https, unless `plain_too`: plain HTTP is for metadata servers, which no proxy reaches.
#[derive(Clone)]
pub(super) struct Way {
    straight: HttpConnector<Resolver>,
    proxies: Option<Arc<Matcher>>,
    plain_too: bool,
}

/// A connection, and whether a proxy at its other end is to pass requests on.
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

/// Gives a request by plain HTTP what its proxy asks for to let it through, if it goes through one.
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

/// Why there is no tunnel. What the proxy said is not repeated.
#[derive(Debug)]
struct NotByProxy;

impl fmt::Display for NotByProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no tunnel through the proxy")
    }
}

impl std::error::Error for NotByProxy {}

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
            return connected.map_ok(stream(true)).map_err(|_| NotByProxy.into()).boxed();
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.straight.clone());
        if let Some(who) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(who.clone());
        }
        tunnel
            .call(to)
            .map_ok(stream(false))
            .map_err(|_| NotByProxy.into())
            .boxed()
    }
}

/// Looks names up, and refuses addresses that lead inwards: a name may have another one by the time of the connection.
#[derive(Clone)]
struct Resolver(Option<Outward>);

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

    /// The words of rustls 0.23 (`CertificateError`), as they come through an error of the connection.
    #[test]
    fn what_is_wrong_with_a_certificate() {
        for (said, told) in [
            (
                "invalid peer certificate: UnknownIssuer",
                "that the operator does not know",
            ),
            (
                "invalid peer certificate: certificate expired: verification time 1795500000 (UNIX), but certificate is not valid after 1795400000 (100000 seconds ago)",
                "is over",
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
