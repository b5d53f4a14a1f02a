//! The HTTP client of the AWS SDK. It uses the connections and limits of [`super::connections`]. Valet does not use the
//! SDK's own client, because that client reads up to 400 KiB of headers and does not limit the body.

use std::{
    error::Error as StdError,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_sdk_s3::{config::SharedHttpClient, primitives::SdkBody};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use http_body_util::Limited;
use hyper_util::client::proxy::matcher::Matcher;

use super::{
    client::Unanswered,
    connections::{Connections, connections, proxy_authorization},
    egress::EgressRules,
    policy::EgressPolicy,
};

/// The maximum size of an answer's body, in bytes. Valet needs this limit because the AWS SDK keeps the whole body in
/// memory, and the server can belong to a tenant. The largest expected answer is a list of 500 parts and has a few
/// hundred kilobytes.
pub const MAX_ANSWER: usize = 256 << 10;

/// Returns the client that all stores of the platform team share. Requests to STS and to metadata servers also use
/// this client. The client can connect to any address and uses the proxies from the environment.
pub fn shared() -> SharedHttpClient {
    static CLIENT: OnceLock<SharedHttpClient> = OnceLock::new();
    let make = || {
        SharedHttpClient::new(Sdk {
            client: connections(None, Some(Matcher::from_env()), true),
            egress: None,
            proxies: Some(Arc::new(Matcher::from_env())),
            timeout: None,
        })
    };
    CLIENT.get_or_init(make).clone()
}

/// Returns a client that connects only to permitted addresses. All stores of tenants share this client.
///
/// The client also checks host names that the AWS SDK builds from the endpoint and the bucket. If the host is an IP
/// address, the client checks it before the request. If the host is a name, the client checks the addresses when it
/// resolves the name.
pub fn guarded(egress: &EgressPolicy) -> SharedHttpClient {
    let make = || {
        let egress = egress.rules();
        SharedHttpClient::new(Sdk {
            client: connections(Some(egress.clone()), None, false),
            egress: Some(egress),
            proxies: None,
            timeout: None,
        })
    };
    egress.clients.aws.get_or_init(make).clone()
}

/// Returns a client that sends GET and HEAD requests with `client` and refuses all other requests.
pub fn only_reading(client: SharedHttpClient) -> SharedHttpClient {
    SharedHttpClient::new(OnlyReading(client))
}

#[derive(Debug)]
struct OnlyReading<C>(C);

impl HttpClient for OnlyReading<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(OnlyReading(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for OnlyReading<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match request.method() {
            "GET" | "HEAD" => self.0.call(request),
            _ => HttpConnectorFuture::ready(Err(ConnectorError::user(Unanswered::WriteDenied.into()))),
        }
    }
}

#[derive(Clone)]
struct Sdk {
    /// The pool of connections. The value is `None` if the machine has no certificate authorities.
    client: Option<Connections<SdkBody>>,
    egress: Option<EgressRules>,
    /// The proxies come from the environment variables.
    proxies: Option<Arc<Matcher>>,
    /// The timeout of one answer, if the AWS SDK sets such a timeout. In addition, each operation of the SDK has a
    /// timeout.
    timeout: Option<Duration>,
}

impl std::fmt::Debug for Sdk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sdk")
    }
}

impl HttpClient for Sdk {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let timeout = match (settings.connect_timeout(), settings.read_timeout()) {
            (connect, Some(read)) => Some(connect.unwrap_or_default() + read),
            (_, None) => None,
        };
        SharedHttpConnector::new(Self {
            timeout,
            ..self.clone()
        })
    }
}

impl HttpConnector for Sdk {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(e) => return HttpConnectorFuture::ready(Err(ConnectorError::user(e.into()))),
        };
        if let Some(egress) = &self.egress
            && let Err(inward) = egress.check_literal(request.uri().host().unwrap_or_default())
        {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(inward.into())));
        }
        let Some(client) = self.client.clone() else {
            let rootless = Unanswered::NoTrustRoots;
            return HttpConnectorFuture::ready(Err(ConnectorError::other(rootless.into(), None)));
        };
        if let Some(proxies) = &self.proxies {
            proxy_authorization(proxies, &mut request);
        }
        let timeout = self.timeout;
        HttpConnectorFuture::new(async move {
            let answer = client.request(request);
            let answer = match timeout {
                Some(limit) => tokio::time::timeout(limit, answer)
                    .await
                    .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?,
                None => answer.await,
            };
            let answer = answer.map_err(|e| failed(e.into()))?;
            let answer = answer.map(|whole| SdkBody::from_body_1_x(Limited::new(whole, MAX_ANSWER)));
            HttpResponse::try_from(answer).map_err(|e| ConnectorError::other(e.into(), None))
        })
    }
}

/// Tells the AWS SDK which kind of error made a request fail, because the SDK retries only some kinds of errors.
fn failed(error: Box<dyn StdError + Send + Sync>) -> ConnectorError {
    let hyper = causes(&*error).find_map(|e| e.downcast_ref::<hyper::Error>());
    let io = causes(&*error).find_map(|e| e.downcast_ref::<io::Error>());
    let connects = causes(&*error)
        .find_map(|e| e.downcast_ref::<hyper_util::client::legacy::Error>())
        .is_some_and(hyper_util::client::legacy::Error::is_connect);
    if hyper.is_some_and(hyper::Error::is_timeout) || io.is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
        ConnectorError::timeout(error)
    } else if hyper.is_some_and(hyper::Error::is_user) {
        ConnectorError::user(error)
    } else if hyper.is_some_and(|e| e.is_closed() || e.is_canceled() || e.is_incomplete_message())
        || io.is_some()
        || connects
    {
        ConnectorError::io(error)
    } else {
        ConnectorError::other(error, None)
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}
