//! Fake servers for which no emulator exists: token endpoints, metadata servers, and stores with wrong behaviour.
//! They work at the HTTP level.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::certificates::base64;

/// A received request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Asked {
    /// The value of a header. The name must be in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The response of a fake server.
pub enum Reply {
    /// A status and a body.
    Text(u16, String),
    /// A status, additional headers and a body.
    With(u16, Vec<(&'static str, String)>, String),
    /// No response. The connection stays open.
    Silence,
    /// The connection is closed.
    HangUp,
    /// These raw bytes instead of an HTTP response.
    Raw(&'static str),
    /// A status, and an endless body for as long as the client reads.
    Endless(u16),
}

/// A fake server on a loopback port. It runs until the process ends.
pub struct Fake {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    poured: Arc<AtomicU64>,
}

impl Fake {
    /// Starts a server that answers each request with the result of `reply`.
    pub fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let poured = Arc::new(AtomicU64::new(0));
        let (seen, pouring, reply) = (asked.clone(), poured.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, pouring, reply) = (seen.clone(), pouring.clone(), reply.clone());
                thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let reply = reply(&request);
                    seen.lock().expect("no thread panics").push(request);
                    answer(stream, reply, &pouring);
                });
            }
        });
        Self { port, asked, poured }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The number of bytes of endless bodies that clients have read.
    pub fn poured(&self) -> u64 {
        self.poured.load(Ordering::Relaxed)
    }

    /// The requests that the server has received.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no thread panics").clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length");
    let length = length.and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        target,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn answer(mut stream: TcpStream, reply: Reply, poured: &AtomicU64) {
    let (status, headers, body) = match reply {
        Reply::Text(status, body) => (status, vec![], body),
        Reply::With(status, headers, body) => (status, headers, body),
        Reply::Silence => {
            // Blocks until the client closes the connection.
            let _ = stream.read(&mut [0]);
            return;
        }
        Reply::HangUp => return,
        Reply::Raw(bytes) => {
            let _ = stream.write_all(bytes.as_bytes());
            return;
        }
        Reply::Endless(status) => {
            let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n").as_bytes());
            let some = [b' '; 64 * 1024];
            while stream.write_all(&some).is_ok() {
                poured.fetch_add(some.len() as u64, Ordering::Relaxed);
            }
            return;
        }
    };
    let mut text = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
}

/// A token like those of Microsoft's endpoints, valid for this number of seconds. Azurite checks everything in the
/// token except its signature.
pub fn token(expires_in: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |d| d.as_secs().cast_signed());
    let claims = json!({
        "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        "iat": now, "nbf": now - 5, "exp": now + expires_in, "oid": OBJECT, "tid": TENANT,
    });
    let part = |value: &Value| {
        let text = base64(value.to_string().as_bytes());
        text.trim_end_matches('=').replace('+', "-").replace('/', "_")
    };
    format!(
        "{}.{}.c2lnbmF0dXJl",
        part(&json!({"typ": "JWT", "alg": "RS256"})),
        part(&claims)
    )
}

/// A response of Microsoft's identity platform with a token.
pub fn granted(expires_in: i64) -> Reply {
    let answer = json!({"token_type": "Bearer", "expires_in": expires_in, "access_token": token(expires_in)});
    Reply::Text(200, answer.to_string())
}

/// A response of Azure's instance metadata server with a token. Numbers are strings.
pub fn granted_as_text(expires_in: i64) -> Reply {
    let answer = json!({
        "access_token": token(expires_in), "client_id": "c", "expires_in": expires_in.to_string(),
        "expires_on": "1900000000", "resource": "https://storage.azure.com/", "token_type": "Bearer",
    });
    Reply::Text(200, answer.to_string())
}

/// The response of Azure Blob Storage to "Get User Delegation Key".
pub fn delegation_key(start: &str, expiry: &str) -> Reply {
    let element = |name: &str, value: &str| format!("<{name}>{value}</{name}>");
    let key: String = [
        ("SignedOid", OBJECT),
        ("SignedTid", TENANT),
        ("SignedStart", start),
        ("SignedExpiry", expiry),
        ("SignedService", "b"),
        ("SignedVersion", "2023-11-03"),
        ("Value", DELEGATED),
    ]
    .iter()
    .map(|(name, value)| element(name, value))
    .collect();
    let document = element("UserDelegationKey", &key);
    Reply::Text(200, format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{document}"))
}

/// The object ID and the tenant ID of the identity.
const OBJECT: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

/// The secret of [`delegation_key`].
pub const DELEGATED: &str = "bWFya2VyLW9mLWEtdXNlci1kZWxlZ2F0aW9uLWtleSE=";
