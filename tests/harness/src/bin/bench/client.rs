//! A client that measures: one kept connection for requests, and a watch on one of its own.
//!
//! It speaks plain HTTP to a `kubectl proxy`, which does the TLS. Every request that is timed goes that way, those of
//! grants as well as those that they are compared with.

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

/// Longer than any answer takes.
const SILENCE: Duration = Duration::from_secs(30);

/// Starts a `kubectl proxy` for the admin and returns it with its port.
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
    /// As in `valetkey.dev`; empty for the core.
    pub group: &'static str,
    /// The plural.
    pub plural: &'static str,
    /// The namespace.
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

/// When a request was sent, and how long its answer took.
#[derive(Clone, Copy)]
pub struct Posted {
    /// Just before the first byte was sent.
    pub sent: Instant,
    /// From then until the whole answer was there.
    pub reply: Duration,
}

/// One connection, kept.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// What it has written, for the account.
    pub writes: Counts,
}

impl Client {
    /// Connects.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = connect(port).context("cannot connect to kubectl proxy")?;
        stream.set_read_timeout(Some(SILENCE)).context("cannot set a timeout")?;
        Ok(Self {
            stream: BufReader::new(stream),
            writes: Counts::new(),
        })
    }

    /// Every object of a resource.
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

/// What a watch has seen of Secrets.
#[derive(Default)]
struct Sights {
    came: BTreeMap<String, Instant>,
    went: BTreeMap<String, SystemTime>,
    end: Option<String>,
}

/// A watch on a resource, which notes when an object's event arrived.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Sights>>);

impl Watch {
    /// Starts to watch, on a connection and a thread of its own, for as long as this process lives.
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

    /// When an object's creation was seen.
    pub fn came(&self, name: &str) -> Option<Instant> {
        self.lock().came.get(name).copied()
    }

    /// When an object's deletion was seen.
    pub fn went(&self, name: &str) -> Option<SystemTime> {
        self.lock().went.get(name).copied()
    }

    /// Objects that were seen to come and not to go.
    pub fn present(&self) -> Vec<String> {
        let sights = self.lock();
        let there = sights.came.keys().filter(|name| !sights.went.contains_key(*name));
        there.cloned().collect()
    }

    /// Why nothing more will be seen.
    ///
    /// # Errors
    /// If that is so.
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

/// How a body's end is known.
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

/// A body, which ends where it should. Bytes are handed on as they come.
struct Body<'a, S> {
    stream: &'a mut S,
    /// What is left of the body, or of the chunk.
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
                // The last chunk is empty; so is the line after it, unless there are trailers, of which there are none.
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
