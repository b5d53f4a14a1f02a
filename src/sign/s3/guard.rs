//! A client that connects only to where requests may go, whatever the SDK makes of an endpoint and a bucket.

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::HttpRequest,
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};

use crate::sign::Outward;

/// Checks names when they are looked up, and addresses when they are asked: nobody looks those up. All stores share it.
pub fn client(outward: &Outward) -> SharedHttpClient {
    let make = || {
        let outward = outward.without_clients();
        let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let inner = Builder::new().tls_provider(tls).build_with_resolver(outward.clone());
        SharedHttpClient::new(Guard { inner, outward })
    };
    outward.clients.aws.get_or_init(make).clone()
}

#[derive(Debug)]
struct Guard<T> {
    inner: T,
    outward: Outward,
}

impl HttpClient for Guard<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Guard {
            inner: self.inner.http_connector(settings, components),
            outward: self.outward.clone(),
        })
    }
}

impl HttpConnector for Guard<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri().parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
        match self.outward.check_literal(host) {
            Ok(()) => self.inner.call(request),
            Err(inward) => HttpConnectorFuture::ready(Err(ConnectorError::user(inward.into()))),
        }
    }
}
