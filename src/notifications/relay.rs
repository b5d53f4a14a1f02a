use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Notify};

/// The timeout for the answer of the leader. The timeout is short because versitygw waits only 3 s for the whole
/// notification request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The name of a header that a replica adds to each notification that it forwards. A replica never forwards a message
/// that already has this header.
pub const RELAYED: &str = "valet-relayed";

/// The headers that Valet forwards to the leader. They contain the sender's token and the headers that describe a
/// CloudEvent.
const PASSED: [&str; 6] = [
    "authorization",
    "x-api-key",
    "content-type",
    "ce-specversion",
    "ce-type",
    "ce-subject",
];

/// The address at which a leader receives notifications. Valet reads the address from the Lease.
#[derive(Debug, Default)]
pub struct Leader {
    address: Mutex<Option<SocketAddr>>,
    unreachable: Notify,
}

impl Leader {
    /// Sets the address of the leader from the current Lease.
    pub fn is_at(&self, address: Option<SocketAddr>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Returns the leader's address from the last known Lease.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a message could not be forwarded to this leader. Another replica may then be the leader.
    pub async fn was_unreachable(&self) {
        self.unreachable.notified().await;
    }

    /// Forwards a message to the leader without changes. Returns true if the leader has accepted the message.
    pub async fn accepts(&self, path: &str, headers: &HeaderMap, body: Bytes) -> bool {
        let status = match self.address() {
            Some(address) => forward_to_leader(address, path, headers, body).await,
            None => None,
        };
        let is_accepted = status.is_some_and(|status| status.is_success());
        if !is_accepted {
            self.unreachable.notify_one();
        }
        is_accepted
    }
}

/// Forwards a message to the leader without changes. Returns the status of the leader's answer, or `None` if the
/// leader does not answer.
pub async fn forward_to_leader(to: SocketAddr, path: &str, headers: &HeaderMap, body: Bytes) -> Option<StatusCode> {
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
