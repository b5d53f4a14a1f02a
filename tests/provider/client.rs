//! The HTTP client of a workload.

use std::sync::LazyLock;

use http::{HeaderMap, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use valet::{conformance::PreparedRequest, net::client::Http};

/// The answer of a store.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn is_done(&self) -> bool {
        self.status < 300
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a request once, without changes.
pub async fn send(sent: &PreparedRequest) -> Answer {
    static HTTP: LazyLock<Http> = LazyLock::new(|| Http::new(None));
    let (body, content_type) = sent.content();
    // Each request has its own connection, because a store can close a connection after it has refused a request.
    let mut request = Request::builder()
        .method(sent.method.as_str())
        .uri(&sent.url)
        .header("connection", "close");
    for (name, value) in sent.headers.iter().chain(&content_type) {
        // The client computes the length from the body.
        if !name.eq_ignore_ascii_case("content-length") {
            request = request.header(name, value);
        }
    }
    if body.is_empty() && sent.method != "GET" {
        request = request.header("content-length", "0");
    }
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = HTTP.send(request).await.expect("the store answers");
    Answer {
        status: answer.status,
        headers: answer.headers,
        body: answer.body.to_vec(),
    }
}
