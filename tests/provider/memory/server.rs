//! The HTTP server of the object store. It runs on loopback until the process ends.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    form::Posted,
    objects::{Bucket, Object, Refusal, e_tag},
    scheme::{self, OWN_HEADERS, SHA256 as SHA256_HEADER, SIGNATURE, SIZE_RANGE, decoded},
};

/// The server reads at most this number of bytes of a request.
const MAX_BODY: usize = 16 << 20;

/// The content of the server.
#[derive(Default)]
struct Content {
    /// The secret of each access key.
    secrets: BTreeMap<String, String>,
    buckets: BTreeMap<String, Bucket>,
}

/// A running server.
#[derive(Clone)]
pub struct MemoryServer {
    content: Arc<Mutex<Content>>,
    port: u16,
}

impl MemoryServer {
    /// Starts a server with one access key and one bucket.
    pub fn start(access_key: &str, secret: &str, bucket: &str) -> Self {
        let content = Content {
            secrets: [(access_key.to_owned(), secret.to_owned())].into(),
            buckets: [(bucket.to_owned(), Bucket::default())].into(),
        };
        let server = Self {
            content: Arc::new(Mutex::new(content)),
            port: 0,
        };
        let port = listen(Router::new().fallback(serve).with_state(server.clone()));
        Self { port, ..server }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the object keys in a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.lock().buckets[bucket].objects.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no thread panics")
    }
}

/// Starts an HTTP server on loopback and returns its port. The server runs until the process ends.
pub fn listen(app: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("the socket has this mode");
    let port = listener.local_addr().expect("it has an address").port();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, app).await.expect("it serves");
        });
    });
    port
}

/// A request whose signature is valid.
struct Verified {
    method: String,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// The answer to a request that the server carried out.
#[derive(Default)]
struct Done {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Done {
    fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn json(body: &Value) -> Self {
        Self {
            status: 200,
            body: body.to_string().into_bytes(),
            ..Self::default()
        }
    }
}

async fn serve(State(server): State<MemoryServer>, request: Request) -> Response<Body> {
    let answer = match read(request).await {
        Ok((parts, headers, body)) => answer(&mut server.lock(), &parts, headers, body),
        Err(refusal) => Err(refusal),
    };
    let done = answer.unwrap_or_else(|(status, code)| Done {
        status,
        headers: vec![("x-memory-code", code.to_owned())],
        body: json!({"code": code}).to_string().into_bytes(),
    });
    let mut response = Response::builder().status(StatusCode::from_u16(done.status).unwrap_or_default());
    for (name, value) in done.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(done.body)).unwrap_or_default()
}

type Parts = (String, String, String);

/// Reads a request: its method, its path and its query, then its headers, then its body.
async fn read(request: Request) -> Result<(Parts, BTreeMap<String, String>, Vec<u8>), Refusal> {
    let (parts, body) = request.into_parts();
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = parts.headers.iter().map(|(n, v)| (n.as_str().to_owned(), text(v)));
    let target = (
        parts.method.as_str().to_owned(),
        parts.uri.path().to_owned(),
        parts.uri.query().unwrap_or_default().to_owned(),
    );
    let headers = headers.collect();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| (413, "TooLarge"))?;
    Ok((target, headers, body.into()))
}

fn answer(
    content: &mut Content,
    (method, path, query): &Parts,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
) -> Result<Done, Refusal> {
    let path_text = decoded(path).ok_or((400, "InvalidPath"))?;
    let (bucket, key) = path_text[1..].split_once('/').ok_or((400, "InvalidPath"))?;
    if method == "POST" && query.is_empty() {
        return post(content, bucket, &headers, &body);
    }
    let request = Verified {
        query: verify(content, method, path, query, &headers)?,
        method: method.clone(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        headers,
        body,
    };
    let bucket = content.buckets.get_mut(&request.bucket).ok_or((404, "NoSuchBucket"))?;
    request.carry_out(bucket)
}

/// Verifies the signature of a URL and returns the parameters of the query.
fn verify(
    content: &Content,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let (signed, signature) = query.split_once(SIGNATURE).ok_or((403, "NoSignature"))?;
    let mut parameters = BTreeMap::new();
    for parameter in signed.split('&') {
        let (name, value) = parameter.split_once('=').ok_or((400, "InvalidQuery"))?;
        parameters.insert(name.to_owned(), decoded(value).ok_or((400, "InvalidQuery"))?);
    }
    let parameter = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let secret = content.secrets.get(parameter("access-key"));
    let secret = secret.ok_or((403, "InvalidAccessKey"))?;
    let names: Vec<&str> = parameter("signed-headers")
        .split(';')
        .filter(|n| !n.is_empty())
        .collect();
    let value = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let lines: Vec<_> = names.iter().map(|name| ((*name).to_owned(), value(name))).collect();
    if scheme::sign(secret, &scheme::string_to_sign(method, path, signed, &lines)) != signature {
        return Err((403, "SignatureDoesNotMatch"));
    }
    if is_expired(parameter("expires")) {
        return Err((403, "Expired"));
    }
    let is_unsigned = |name: &String| name.starts_with(OWN_HEADERS) && !names.contains(&name.as_str());
    if headers.keys().any(is_unsigned) {
        return Err((403, "UnsignedHeader"));
    }
    Ok(parameters)
}

fn is_expired(expires: &str) -> bool {
    expires
        .parse()
        .map_or(true, |end: i64| end <= Timestamp::now().as_second())
}

/// Stores the file of a POST form.
fn post(
    content: &mut Content,
    bucket: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
) -> Result<Done, Refusal> {
    let content_type = headers.get("content-type").map(String::as_str).unwrap_or_default();
    let form = Posted::parse(content_type, body).ok_or((400, "InvalidForm"))?;
    let secret = content.secrets.get(form.field("access-key"));
    let secret = secret.ok_or((403, "InvalidAccessKey"))?;
    if scheme::sign(secret, &scheme::form_to_sign(&form.fields)) != form.field("signature") {
        return Err((403, "SignatureDoesNotMatch"));
    }
    if is_expired(form.field("expires")) {
        return Err((403, "Expired"));
    }
    if form.field("bucket") != bucket {
        return Err((403, "OtherBucket"));
    }
    let key = form.key().ok_or((403, "KeyNotAllowed"))?;
    check_content(&form.file, Some(form.field("size-range")), Some(form.field("sha256")))?;
    let bucket = content.buckets.get_mut(bucket).ok_or((404, "NoSuchBucket"))?;
    bucket.put(&key, object(form.file.clone(), Some(form.field("content-type"))), false)?;
    Ok(Done::status(204))
}

fn object(body: Vec<u8>, content_type: Option<&str>) -> Object {
    Object {
        body,
        content_type: content_type.filter(|text| !text.is_empty()).map(str::to_owned),
        modified: Timestamp::now(),
    }
}

/// Checks the size and the SHA-256 of an upload. An absent or empty text is no constraint.
fn check_content(body: &[u8], range: Option<&str>, sha256: Option<&str>) -> Result<(), Refusal> {
    if let Some(range) = range.filter(|text| !text.is_empty()) {
        let (min, max) = range.split_once('-').ok_or((400, "InvalidRange"))?;
        let limit = |text: &str| text.parse::<usize>().map_err(|_| (400, "InvalidRange"));
        if !(limit(min)?..=limit(max)?).contains(&body.len()) {
            return Err((400, "SizeNotAllowed"));
        }
    }
    match sha256.filter(|text| !text.is_empty()) {
        Some(sum) if BASE64_STANDARD.encode(digest(&SHA256, body)) != sum => Err((400, "BadDigest")),
        _ => Ok(()),
    }
}

impl Verified {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn carry_out(&self, bucket: &mut Bucket) -> Result<Done, Refusal> {
        let is_write_once = self.header("if-none-match") == Some("*");
        let upload = self.parameter("upload");
        match (self.method.as_str(), upload) {
            ("PUT", None) => {
                check_content(&self.body, self.header(SIZE_RANGE), self.header(SHA256_HEADER))?;
                let object = object(self.body.clone(), self.header("content-type"));
                bucket.put(&self.key, object, is_write_once)?;
                Ok(Done::status(200))
            }
            ("PUT", Some(id)) => {
                check_content(&self.body, self.header(SIZE_RANGE), None)?;
                let number = self.parameter("part").and_then(|n| n.parse().ok());
                let parts = &mut bucket.upload(&self.key, id)?.parts;
                parts.insert(number.ok_or((400, "InvalidPart"))?, self.body.clone());
                Ok(Done::status(200))
            }
            ("GET" | "HEAD", None) if self.key.is_empty() => Ok(self.open_uploads(bucket)),
            ("GET" | "HEAD", None) => self.read(bucket),
            ("GET", Some(id)) => {
                let parts = &bucket.upload(&self.key, id)?.parts;
                let part = |(number, body): (&i64, &Vec<u8>)| json!({"number": number, "size": body.len(), "tag": e_tag(body)});
                Ok(Done::json(&parts.iter().map(part).collect()))
            }
            ("POST", None) => {
                let id = bucket.initiate(&self.key, self.header("content-type").map(str::to_owned));
                Ok(Done::json(&json!({"upload": id})))
            }
            ("POST", Some(id)) => {
                let parts: Vec<(i64, String)> =
                    serde_json::from_slice(&self.body).map_err(|_| (400, "InvalidPart"))?;
                let object = bucket.complete(&self.key, id, &parts, is_write_once)?;
                Ok(Done::json(&json!({"tag": e_tag(&object.body)})))
            }
            ("DELETE", None) => {
                bucket.objects.remove(&self.key);
                Ok(Done::status(204))
            }
            ("DELETE", Some(id)) => {
                bucket.upload(&self.key, id)?;
                bucket.uploads.remove(id);
                Ok(Done::status(204))
            }
            _ => Err((405, "MethodNotAllowed")),
        }
    }

    fn read(&self, bucket: &Bucket) -> Result<Done, Refusal> {
        let (version, object) = bucket.get(&self.key, self.parameter("version"))?;
        let modified = rfc2822::to_string(&object.modified.to_zoned(TimeZone::UTC)).unwrap_or_default();
        let mut headers = vec![
            ("etag", e_tag(&object.body)),
            ("last-modified", modified),
            ("x-memory-version", version.to_string()),
            ("x-memory-size", object.body.len().to_string()),
        ];
        let kept = object.content_type.as_deref();
        for (name, parameter, kept) in [
            ("content-type", "response-content-type", kept),
            ("content-disposition", "response-content-disposition", None),
            ("content-encoding", "response-content-encoding", None),
            ("content-language", "response-content-language", None),
            ("cache-control", "response-cache-control", None),
        ] {
            headers.extend(self.parameter(parameter).or(kept).map(|value| (name, value.to_owned())));
        }
        Ok(Done {
            status: 200,
            headers,
            body: object.body.clone(),
        })
    }

    /// Lists the open multipart uploads of the object key in the parameter `key`.
    fn open_uploads(&self, bucket: &Bucket) -> Done {
        let wanted = self.parameter("key").unwrap_or_default();
        let open = bucket.uploads.iter().filter(|(_, upload)| upload.key == wanted);
        let open = open.map(|(id, upload)| {
            json!({"upload": id, "initiated": upload.initiated.to_string(), "has_parts": !upload.parts.is_empty()})
        });
        Done::json(&open.collect())
    }
}
