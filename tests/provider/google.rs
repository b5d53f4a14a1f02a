//! A server that verifies requests as Google documents it. No emulator does this: fake-gcs-server verifies nothing. The
//! checker in Python that verifies the signatures does not use Valet's code.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Response, request::Parts},
};
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};
use serde_json::{Value, json};
use valet_harness::google;

use crate::memory::{
    form::Posted,
    objects::{Bucket, Object, Refusal, e_tag},
    scheme::decoded,
    server::listen,
};

/// Google's own service account key for tests. It gives access to nothing.
pub const KEY: &str = include_str!("../fixtures/google/service-account.json");
/// The service account of [`KEY`].
const ACCOUNT: &str = "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com";
/// The server reads at most this number of bytes of a request.
const MAX_BODY: usize = 16 << 20;

/// A running server with one bucket.
#[derive(Clone)]
pub struct GoogleServer {
    name: &'static str,
    bucket: Arc<Mutex<Bucket>>,
}

impl GoogleServer {
    /// Starts a server and returns it with its address.
    pub fn start(name: &'static str) -> (Self, String) {
        let server = Self {
            name,
            bucket: Arc::default(),
        };
        let port = listen(Router::new().fallback(serve).with_state(server.clone()));
        (server, format!("http://127.0.0.1:{port}"))
    }

    /// Returns the object keys in the bucket.
    pub fn keys(&self) -> Vec<String> {
        let bucket = self.bucket.lock().expect("no thread panics");
        bucket.objects.keys().cloned().collect()
    }
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

async fn serve(State(server): State<GoogleServer>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let (status, headers, body) = answer(&server, &parts, body.into()).unwrap_or_else(|(status, code)| {
        let body = format!("<Error><Code>{code}</Code></Error>");
        (status, Vec::new(), body.into_bytes())
    });
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap_or_default()
}

fn answer(server: &GoogleServer, parts: &Parts, body: Vec<u8>) -> Result<Answer, Refusal> {
    let path = decoded(parts.uri.path()).ok_or((400, "InvalidURI"))?;
    let (name, key) = path[1..].split_once('/').ok_or((400, "InvalidURI"))?;
    let mut bucket = server.bucket.lock().expect("no thread panics");
    if let Some(form) = Posted::parse(header(parts, "content-type"), &body) {
        let file = form.file_name.rsplit('/').next().unwrap_or_default();
        let key = form.field("key").replace("${filename}", file);
        verify(parts, name, form.file.len(), &form.file, Some(&form), false)?;
        let content_type = form.field("content-type").to_owned();
        bucket.put(&key, object(form.file.clone(), content_type), false)?;
        return Ok((204, Vec::new(), Vec::new()));
    }
    let exists = bucket.objects.contains_key(key);
    verify(parts, name, body.len(), &body, None, exists)?;
    if name != server.name {
        return Err((404, "NoSuchBucket"));
    }
    match parts.method.as_str() {
        "PUT" => {
            let content_type = header(parts, "content-type").to_owned();
            bucket.put(key, object(body, content_type), false)?;
            Ok((200, Vec::new(), Vec::new()))
        }
        "DELETE" => {
            bucket.objects.remove(key).ok_or((404, "NoSuchKey"))?;
            Ok((204, Vec::new(), Vec::new()))
        }
        _ => Ok(read(parts, bucket.get(key, None)?.1)),
    }
}

fn header<'a>(parts: &'a Parts, name: &str) -> &'a str {
    let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn object(body: Vec<u8>, content_type: String) -> Object {
    Object {
        body,
        content_type: Some(content_type).filter(|text| !text.is_empty()),
        modified: Timestamp::now(),
    }
}

/// Asks the checker whether Google would accept the request.
fn verify(
    parts: &Parts,
    bucket: &str,
    size: usize,
    content: &[u8],
    form: Option<&Posted>,
    exists: bool,
) -> Result<(), Refusal> {
    let headers = parts.headers.iter().filter(|(name, _)| *name != "host");
    let headers: Vec<_> = headers
        .map(|(name, v)| (name.as_str(), v.to_str().unwrap_or_default()))
        .collect();
    let mut question = json!({
        "op": if form.is_some() { "verify_form" } else { "verify" },
        "key_file": KEY, "account": ACCOUNT, "method": parts.method.as_str(), "bucket": bucket,
        "url": format!("http://{}{}", header(parts, "host"), parts.uri),
        "headers": headers, "now": Timestamp::now().as_second(), "exists": exists,
    });
    if let Some(form) = form {
        question["fields"] = json!(form.fields);
    }
    if form.is_some() || parts.method == "PUT" {
        question["size"] = size.into();
        question["content"] = String::from_utf8_lossy(content).into();
    }
    let (verdict, _) = google::ask(question, &[]).map_err(|_| (403, "SignatureDoesNotMatch"))?;
    Err(match verdict["why"].as_str().unwrap_or_default() {
        "" => return Ok(()),
        "it has expired" => (400, "ExpiredToken"),
        "the object is there already" => (412, "PreconditionFailed"),
        "the size is out of range" => (400, "EntityTooLarge"),
        "the bytes are not those of the MD5" => (400, "BadDigest"),
        why if why.ends_with("is sent and not signed") => (400, "MalformedSecurityHeader"),
        _ => (403, "SignatureDoesNotMatch"),
    })
}

fn read(parts: &Parts, object: &Object) -> Answer {
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            Some((name.to_owned(), decoded(value)?))
        })
        .collect();
    let modified = object.modified.to_zoned(TimeZone::UTC);
    let mut headers = vec![
        ("etag", e_tag(&object.body)),
        ("last-modified", rfc2822::to_string(&modified).unwrap_or_default()),
        ("x-goog-stored-content-length", object.body.len().to_string()),
    ];
    let content_type = query.get("response-content-type").or(object.content_type.as_ref());
    headers.extend(content_type.map(|value| ("content-type", value.clone())));
    let disposition = query.get("response-content-disposition");
    headers.extend(disposition.map(|value| ("content-disposition", value.clone())));
    (200, headers, object.body.clone())
}

/// Returns the service account key of another account, which the server does not know.
pub fn other_key() -> String {
    KEY.replace("test-iam-credentials@", "another-account@")
}

/// Returns a line of the private key. No text of the provider may contain it.
pub fn secret() -> String {
    let key: Value = serde_json::from_str(KEY).expect("the key is JSON");
    let lines = key["private_key"].as_str().expect("a private key").lines();
    lines.skip(1).map(str::to_owned).next().expect("a line")
}
