//! A reverse proxy in front of a real store that behaves differently from Amazon's documentation in one respect. The
//! signature covers the header `Host`, and the real store accepts any host. So clients can sign for the address of
//! the proxy.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use jiff::Timestamp;

use crate::{Context, Result, S3Server};

/// How the store differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// No difference. The proxy only records the requests.
    None,
    /// Answers 501 NotImplemented to conditional writes, as Backblaze B2 does.
    NoConditions,
    /// As `NoConditions`, and obeys an unsigned header `x-amz-copy-source`, as MinIO does.
    NoConditionsAndCopies,
    /// The bucket has Object Lock with a default retention: a PUT without Content-MD5 or another checksum gets 400
    /// InvalidRequest.
    ObjectLock,
}

/// Such a store on a loopback port. It runs until the process ends.
pub struct OddStore {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

/// The real store behind the proxy.
struct Behind {
    port: u16,
    objects: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl OddStore {
    /// Starts a proxy in front of this versitygw.
    ///
    /// # Errors
    /// Returns an error if there is no free port.
    pub fn before(server: &S3Server, oddity: Oddity) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for a store")?;
        let port = listener.local_addr().context("the store's port")?.port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let behind = Arc::new(Behind {
            port: server.port(),
            objects: server.scratch().join("objects"),
            requests: requests.clone(),
        });
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let behind = behind.clone();
                // Errors of a connection only end this connection.
                thread::spawn(move || behind.serve(client, oddity));
            }
        });
        Ok(Self { port, requests })
    }

    /// All requests so far, as `METHOD /BUCKET/KEY?QUERY`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A received request.
struct Request {
    method: String,
    target: String,
    /// Names and values of the headers, unchanged.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Reads a request. `None` if the client closed the connection.
    fn read(client: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(client);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            request.headers.push((name.to_owned(), value.trim_start().to_owned()));
        }
        if request.header("expect").is_some() {
            let mut client = client;
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = request.header("content-length").and_then(|v| v.parse().ok());
        request.body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    fn is_conditional(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST")
            && (self.header("if-none-match").is_some() || self.header("if-match").is_some())
    }

    fn has_checksum(&self) -> bool {
        let is_one = |name: &str| {
            let name = name.to_ascii_lowercase();
            name == "content-md5" || name.starts_with("x-amz-checksum-")
        };
        self.headers.iter().any(|(name, _)| is_one(name))
    }

    /// The object that an unsigned header asks to copy.
    fn copies(&self) -> Option<String> {
        let source = self.header("x-amz-copy-source").filter(|_| self.method == "PUT")?;
        let signed = self.target.clone() + self.header("authorization").unwrap_or_default();
        (!signed.to_ascii_lowercase().contains("x-amz-copy-source")).then(|| source.to_owned())
    }
}

impl Behind {
    fn serve(&self, mut client: TcpStream, oddity: Oddity) -> io::Result<()> {
        let Some(mut request) = Request::read(&client)? else {
            return Ok(());
        };
        let line = format!("{} {}", request.method, request.target);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        match self.refusal(&mut request, oddity) {
            Some((status, code, message)) => client.write_all(error(status, code, message).as_bytes()),
            None => self.pass(&request, &mut client),
        }
    }

    /// The response of the proxy itself. `None` means that the proxy forwards the request, which it may have changed.
    fn refusal(&self, request: &mut Request, oddity: Oddity) -> Option<(u16, &'static str, &'static str)> {
        match oddity {
            Oddity::NoConditions | Oddity::NoConditionsAndCopies if request.is_conditional() => Some((
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
            )),
            Oddity::NoConditionsAndCopies => {
                let source = request.copies()?;
                let Some(bytes) = read(&self.objects, &source) else {
                    return Some((404, "NoSuchKey", "The specified key does not exist."));
                };
                request.remove("x-amz-copy-source");
                request.remove("content-length");
                request.headers.push(("Content-Length".into(), bytes.len().to_string()));
                request.body = bytes;
                None
            }
            Oddity::ObjectLock if request.method == "PUT" && !request.has_checksum() => Some((
                400,
                "InvalidRequest",
                "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters",
            )),
            Oddity::None | Oddity::NoConditions | Oddity::ObjectLock => None,
        }
    }

    fn pass(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        for (name, value) in &request.headers {
            if !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("expect") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("Connection: close\r\n\r\n");
        let mut server = TcpStream::connect(("127.0.0.1", self.port))?;
        server.write_all(head.as_bytes())?;
        // A server can answer before it has read the whole body, so a write error is ignored.
        let _ = server.write_all(&request.body);
        io::copy(&mut server, client)?;
        Ok(())
    }
}

/// Reads the object of a copy source `/BUCKET/KEY`, which is percent-encoded.
fn read(objects: &Path, source: &str) -> Option<Vec<u8>> {
    let mut path = Vec::new();
    let mut bytes = source.trim_start_matches('/').bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        path.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    let path = String::from_utf8(path).ok()?;
    let is_within = path.split('/').all(|part| part != "..");
    is_within.then(|| fs::read(objects.join(path)).ok()).flatten()
}

fn error(status: u16, code: &str, message: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    format!(
        "HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        Request {
            method: method.into(),
            target: "/media/a?X-Amz-SignedHeaders=host".into(),
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            body: Vec::new(),
        }
    }

    fn status(oddity: Oddity, method: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let behind = Behind {
            port: 0,
            objects: "/nonexistent".into(),
            requests: Arc::default(),
        };
        let answer = behind.refusal(&mut request(method, headers), oddity);
        answer.map(|(status, ..)| status)
    }

    #[test]
    fn proxy_changes_only_the_answers_of_its_own_oddity() {
        let (condition, md5) = (("If-None-Match", "*"), ("Content-MD5", "x"));
        let copy = ("x-amz-copy-source", "/media/none");
        for (oddity, method, headers, expected) in [
            (Oddity::None, "PUT", &[condition, copy][..], None),
            (Oddity::NoConditions, "PUT", &[condition], Some(501)),
            (Oddity::NoConditions, "POST", &[condition], Some(501)),
            (Oddity::NoConditions, "GET", &[condition], None),
            (Oddity::NoConditions, "PUT", &[copy], None),
            (Oddity::NoConditionsAndCopies, "PUT", &[condition, copy], Some(501)),
            (Oddity::NoConditionsAndCopies, "PUT", &[copy], Some(404)),
            (Oddity::NoConditionsAndCopies, "PUT", &[], None),
            (Oddity::ObjectLock, "PUT", &[condition], Some(400)),
            (Oddity::ObjectLock, "PUT", &[md5], None),
            (Oddity::ObjectLock, "PUT", &[("x-amz-checksum-sha256", "x")], None),
            (Oddity::ObjectLock, "GET", &[], None),
        ] {
            assert_eq!(
                status(oddity, method, headers),
                expected,
                "{oddity:?} {method} {headers:?}"
            );
        }
    }
}
