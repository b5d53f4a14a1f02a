//! A client that measures times. It uses one persistent connection for requests, and a separate connection for each
//! watch.
//!
//! The client speaks plain HTTP to a `kubectl proxy`, which adds TLS. All measured requests use the same path, for
//! grants and for the plain Secrets that they are compared with.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Error, ErrorKind, Read, Result as IoResult, Write},
    net::{Ipv4Addr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use valet_harness::{Context, ControlPlane, Error as HarnessError, Process, Result, net};

use crate::counts::{Counts, call};

/// Longer than any response takes.
const SILENCE: Duration = Duration::from_secs(30);

/// Starts a `kubectl proxy` for the admin user, and returns the process and its port.
pub fn proxy(plane: &ControlPlane) -> Result<(Process, u16)> {
    let port = net::free_port()?;
    let mut command = plane.kubectl_command(plane.kubeconfig());
    command.args(["proxy", "--address=127.0.0.1", &format!("--port={port}")]);
    let log = plane.scratch().join("kubectl-proxy.log");
    let process = Process::start("kubectl-proxy", command, log)?;
    process.wait_until(SILENCE, "it listened", || net::listens(port))?;
    Ok((process, port))
}

/// A resource in a namespace.
#[derive(Clone, Copy)]
pub struct Resource {
    /// The API group, for example `valetkey.dev`. Empty for the core group.
    pub group: &'static str,
    /// The plural name of the resource.
    pub plural: &'static str,
    pub namespace: &'static str,
}

impl Resource {
    fn path(self) -> String {
        let root = match self.group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/v1alpha1"),
        };
        format!("{root}/namespaces/{}/{}", self.namespace, self.plural)
    }
}

/// The time when a request was sent, and the time until its response.
#[derive(Clone, Copy)]
pub struct Posted {
    /// Just before the client sends the first byte.
    pub sent: Instant,
    /// The time until the complete response has arrived.
    pub reply: Duration,
}

/// A client with one persistent connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// The writes of this client, which are subtracted from the metrics.
    pub writes: Counts,
}

impl Client {
    /// Connects to a proxy on this port.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = connect(port).context("cannot connect to kubectl proxy")?;
        stream.set_read_timeout(Some(SILENCE)).context("cannot set a timeout")?;
        Ok(Self {
            stream: BufReader::new(stream),
            writes: Counts::new(),
        })
    }

    /// Lists all objects of a resource.
    pub fn list(&mut self, resource: Resource) -> Result<Vec<Value>> {
        let what = format!("GET {}", resource.path());
        let answer = self.send(&request("GET", &resource.path(), "")).context(&what)?;
        match parse(&answer).context(&what)? {
            Value::Object(mut list) => match list.remove("items") {
                Some(Value::Array(items)) => Ok(items),
                _ => Err(HarnessError::new(format!("{what}: no list"))),
            },
            _ => Err(HarnessError::new(format!("{what}: no object"))),
        }
    }

    /// Creates an object.
    pub fn post(&mut self, resource: Resource, object: &Value) -> Result<Posted> {
        let what = format!("POST {}", resource.path());
        let request = request("POST", &resource.path(), &object.to_string());
        let sent = Instant::now();
        let answer = self.send(&request).context(&what)?;
        let reply = sent.elapsed();
        parse(&answer).context(&what)?;
        *self
            .writes
            .entry(call("POST", resource.group, resource.plural, ""))
            .or_default() += 1;
        Ok(Posted { sent, reply })
    }

    fn send(&mut self, request: &str) -> IoResult<(u16, Vec<u8>)> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, framing) = head(&mut self.stream)?;
        let mut body = Vec::new();
        Body::new(&mut self.stream, framing).read_to_end(&mut body)?;
        Ok((status, body))
    }
}

/// The Secret events that a watch has received.
#[derive(Default)]
struct Sights {
    came: BTreeMap<String, Instant>,
    went: BTreeMap<String, SystemTime>,
    end: Option<String>,
}

/// A watch on a resource. It records when the event of each object arrives.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Sights>>);

impl Watch {
    /// Starts a watch on a separate connection and thread. The watch runs until the process ends.
    pub fn start(port: u16, resource: Resource) -> Result<Self> {
        let what = "cannot start a watch";
        let mut stream = BufReader::new(connect(port).context(what)?);
        let path = format!("{}?watch=true&timeoutSeconds=36000", resource.path());
        stream
            .get_mut()
            .write_all(request("GET", &path, "").as_bytes())
            .context(what)?;
        let (status, framing) = head(&mut stream).context(what)?;
        if status != 200 {
            return Err(HarnessError::new(format!("{what}: HTTP {status}")));
        }
        let watch = Self::default();
        let notes = watch.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(Body::new(&mut stream, framing));
            let end = loop {
                let mut line = Vec::new();
                match lines.read_until(b'\n', &mut line) {
                    Ok(0) => break "the apiserver ended the watch".to_owned(),
                    Err(error) => break format!("the watch broke: {error}"),
                    Ok(_) => {
                        let (at, time) = (Instant::now(), SystemTime::now());
                        notes.note(&line, at, time);
                    }
                }
            };
            notes.lock().end = Some(end);
        });
        Ok(watch)
    }

    fn note(&self, line: &[u8], at: Instant, time: SystemTime) {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        let mut sights = self.lock();
        match event["type"].as_str() {
            Some("ADDED") => drop(sights.came.insert(name.to_owned(), at)),
            Some("DELETED") => drop(sights.went.insert(name.to_owned(), time)),
            Some("ERROR") => sights.end = Some(event["object"].to_string()),
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time when the creation of an object was seen.
    pub fn came(&self, name: &str) -> Option<Instant> {
        self.lock().came.get(name).copied()
    }

    /// The time when the deletion of an object was seen.
    pub fn went(&self, name: &str) -> Option<SystemTime> {
        self.lock().went.get(name).copied()
    }

    /// The objects whose creation was seen, but not their deletion.
    pub fn present(&self) -> Vec<String> {
        let sights = self.lock();
        let there = sights.came.keys().filter(|name| !sights.went.contains_key(*name));
        there.cloned().collect()
    }

    /// Checks that the watch is still running.
    ///
    /// # Errors
    /// Returns an error with the reason if the watch has stopped.
    pub fn alive(&self) -> Result<()> {
        self.lock()
            .end
            .clone()
            .map_or(Ok(()), |why| Err(HarnessError::new(why)))
    }
}

fn connect(port: u16) -> IoResult<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn parse((status, body): &(u16, Vec<u8>)) -> Result<Value> {
    if *status >= 300 {
        let said = String::from_utf8_lossy(body);
        return Err(HarnessError::new(format!("HTTP {status}: {said}")));
    }
    serde_json::from_slice(body).context("the answer is not JSON")
}

/// How the end of a response body is found.
enum Framing {
    Length(u64),
    Chunked,
}

fn line(stream: &mut impl BufRead) -> IoResult<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn head(stream: &mut impl BufRead) -> IoResult<(u16, Framing)> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Error::other(format!("no HTTP status in {first:?}")))?;
    let mut framing = Framing::Length(0);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", n)) => framing = Framing::Length(n.parse().map_err(Error::other)?),
            Some(("transfer-encoding", "chunked")) => framing = Framing::Chunked,
            Some(_) => {}
            None if header.is_empty() => return Ok((status, framing)),
            None => return Err(Error::other(format!("no HTTP header: {header:?}"))),
        }
    }
}

/// A response body. Reads return bytes as they arrive, and end at the end of the body.
struct Body<'a, S> {
    stream: &'a mut S,
    /// The remaining bytes of the body, or of the current chunk.
    left: u64,
    chunked: bool,
}

impl<'a, S: BufRead> Body<'a, S> {
    fn new(stream: &'a mut S, framing: Framing) -> Self {
        let (left, chunked) = match framing {
            Framing::Length(left) => (left, false),
            Framing::Chunked => (0, true),
        };
        Self { stream, left, chunked }
    }
}

impl<S: BufRead> Read for Body<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        if self.left == 0 && self.chunked {
            self.left = u64::from_str_radix(&line(self.stream)?, 16).map_err(Error::other)?;
            if self.left == 0 {
                // The last chunk is empty. The line after it is also empty, because the apiserver sends no trailers.
                self.chunked = false;
                line(self.stream)?;
            }
        }
        if self.left == 0 {
            return Ok(0);
        }
        let n = self.stream.by_ref().take(self.left).read(buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        if self.left == 0 && self.chunked {
            line(self.stream)?;
        }
        Ok(n)
    }
}
