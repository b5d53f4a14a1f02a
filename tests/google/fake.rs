//! A configurable HTTP server, for endpoints that no emulator has and for failures that no emulator shows.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

/// A request that the server received.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl RecordedRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// A reply of the server.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status, headers and a body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// These raw bytes, then the end of the connection.
    Bytes(&'static [u8]),
    /// No reply while the client waits.
    Silence,
}

impl Reply {
    pub fn json(status: u16, body: Value) -> Self {
        Self::Answer(status, vec![("Metadata-Flavor", "Google".into())], body.to_string())
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::Answer(status, vec![("Metadata-Flavor", "Google".into())], body.to_owned())
    }
}

/// The server. It ends with the process.
pub struct Fake {
    pub address: String,
    calls: Arc<Mutex<Vec<RecordedRequest>>>,
}

impl Fake {
    /// Starts a server. The reply may depend on the number of earlier requests.
    pub fn start(answer: impl Fn(&RecordedRequest, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let calls: Arc<Mutex<Vec<RecordedRequest>>> = Arc::default();
        let (seen, answer) = (calls.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || serve(stream, &seen, answer.as_ref()));
            }
        });
        Self { address, calls }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests that the server received.
    pub fn calls(&self) -> Vec<RecordedRequest> {
        self.calls.lock().expect("no panic").clone()
    }

    /// The number of requests whose path ends with `end`.
    pub fn count(&self, end: &str) -> usize {
        self.calls().iter().filter(|c| c.path.ends_with(end)).count()
    }
}

fn serve(
    stream: TcpStream,
    calls: &Mutex<Vec<RecordedRequest>>,
    answer: &(dyn Fn(&RecordedRequest, usize) -> Reply + Send + Sync),
) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut stream = stream;
    while let Some(call) = read(&mut reader) {
        let before = {
            let mut calls = calls.lock().expect("no panic");
            calls.push(call.clone());
            calls.len() - 1
        };
        match answer(&call, before) {
            Reply::Answer(status, headers, body) => {
                let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
                let body = if call.method == "HEAD" { String::new() } else { body };
                let length = if headers.to_ascii_lowercase().contains("content-length") {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", body.len())
                };
                let _ = write!(stream, "HTTP/1.1 {status} So\r\n{headers}{length}\r\n{body}");
            }
            Reply::Bytes(bytes) => {
                let _ = stream.write_all(bytes);
                return;
            }
            Reply::Silence => {
                // Wait until the client closes the connection. If the client never does, the test's own time limit
                // fails the test.
                let _ = stream.read(&mut [0]);
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<RecordedRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut call = RecordedRequest {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let length = call.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    call.body = vec![0; length];
    reader.read_exact(&mut call.body).ok()?;
    Some(call)
}
