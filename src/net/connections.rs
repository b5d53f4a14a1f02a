//! Pools of connections, through proxies and with egress rules.

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

use aws_smithy_runtime_api::client::dns::ResolveDns;
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{Request, Uri, uri::Scheme};
use http_body_util::Full;
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

use super::{dns, egress::EgressRules};

/// The timeout of one request. It includes the time to connect and to read the answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of all headers of an answer, in bytes. Valet needs a limit because the server can belong to a
/// tenant. Amazon S3 allows 2 KB of user metadata in the headers.
pub const MAX_HEADERS: usize = 16 * 1024;

/// A pool of connections for requests with bodies of type `B`.
pub type Connections<B = Full<Bytes>> = Client<HttpsConnector<Connector>, B>;

/// Creates a pool of connections. HTTPS requests use the proxy from the environment. If `plain_too` is true, plain
/// HTTP requests also use a proxy.
pub fn connections<B>(
    egress: Option<EgressRules>,
    proxies: Option<Matcher>,
    plain_too: bool,
) -> Option<Connections<B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new_with_resolver(Resolver(egress));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(TIMEOUT));
    // If the machine has no certificates of certificate authorities, the client cannot verify any server. The function
    // then returns `None`, and each request fails with an error that reports the missing certificates.
    HttpsConnectorBuilder::new().with_native_roots().ok().map(|builder| {
        let way = Connector {
            direct: connector,
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

/// Connects to a host directly, or through a tunnel (`CONNECT`) of a proxy. If the client uses a tunnel, the proxy
/// sees only the host name.
///
/// Plain HTTP requests use a proxy only if `plain_too` is true. Such requests usually go to metadata servers, which a
/// proxy cannot reach.
#[derive(Clone)]
pub struct Connector {
    direct: HttpConnector<Resolver>,
    proxies: Option<Arc<Matcher>>,
    plain_too: bool,
}

/// A TCP connection, and a flag that is true if a proxy forwards the requests on this connection.
pub struct Stream {
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
pub fn proxy_authorization<B>(proxies: &Matcher, request: &mut Request<B>) {
    if request.uri().scheme() == Some(&Scheme::HTTP)
        && let Some(proxy) = proxies.intercept(request.uri())
        && let Some(who) = proxy.basic_auth()
    {
        request
            .headers_mut()
            .insert(http::header::PROXY_AUTHORIZATION, who.clone());
    }
}

/// This error means that the client could not open a tunnel through the proxy. The error does not contain the proxy's
/// answer.
#[derive(Debug)]
pub struct ProxyUnsupported;

impl fmt::Display for ProxyUnsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no tunnel through the proxy")
    }
}

impl std::error::Error for ProxyUnsupported {}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let is_tunnel = to.scheme() == Some(&Scheme::HTTPS);
        let proxies = self.proxies.as_ref().filter(|_| is_tunnel || self.plain_too);
        let stream = |to_proxy| move |io| Stream { io, to_proxy };
        let Some(proxy) = proxies.and_then(|p| p.intercept(&to)) else {
            return self.direct.call(to).map_ok(stream(false)).err_into().boxed();
        };
        if !is_tunnel {
            let connected = self.direct.call(proxy.uri().clone());
            return connected
                .map_ok(stream(true))
                .map_err(|_| ProxyUnsupported.into())
                .boxed();
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
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
struct Resolver(Option<EgressRules>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let egress = self.0.clone();
        async move {
            let addresses: Vec<SocketAddr> = match egress {
                Some(egress) => {
                    let found = egress.resolve_dns(name.as_str()).await?;
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
