use std::{net::SocketAddr, sync::Mutex, time::Duration};

use axum::body::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long the replica that works may take to answer. versitygw waits 3 s for the whole.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Marks a message that another replica has passed on, so that it is not passed on again.
pub const RELAYED: &str = "valet-relayed";

/// What another replica needs of the headers: who sends, and what a CloudEvent in them is about.
const PASSED: [&str; 6] = [
    "authorization",
    "x-api-key",
    "content-type",
    "ce-specversion",
    "ce-type",
    "ce-subject",
];

/// Where the replica that works takes notifications, as the Lease says.
#[derive(Debug, Default)]
pub struct Leader(Mutex<Option<SocketAddr>>);

impl Leader {
    /// What the Lease says now.
    pub fn is_at(&self, address: Option<SocketAddr>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = address;
    }

    /// Where it was last seen.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Hands a message on as it came, and returns what became of it; `None` if nobody answered.
pub async fn pass_on(to: SocketAddr, path: &str, headers: &HeaderMap, body: Bytes) -> Option<StatusCode> {
    tokio::time::timeout(TIMEOUT, send(to, path, headers, body))
        .await
        .ok()
        .flatten()
}

async fn send(to: SocketAddr, path: &str, headers: &HeaderMap, body: Bytes) -> Option<StatusCode> {
    let stream = TcpStream::connect(to).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let mut request = Request::post(path).body(Full::new(body)).ok()?;
    let passed = request.headers_mut();
    for name in PASSED {
        for value in headers.get_all(name) {
            passed.append(name, value.clone());
        }
    }
    passed.insert(header::HOST, HeaderValue::from_str(&to.to_string()).ok()?);
    passed.insert(RELAYED, HeaderValue::from_static("1"));
    let status = sender.send_request(request).await.ok().map(|answer| answer.status());
    connection.abort();
    status
}
