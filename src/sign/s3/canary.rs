//! A round trip with real keys: objects below the probe key are written and read with keys as grants get them, and every
//! promise of a key is broken once. What was written is deleted.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_s3::{
    Client,
    config::{
        Config, ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
        retry::RetryConfig,
    },
    primitives::ByteStream,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};

use super::S3;
use crate::{
    api::{
        Ask, Capability, DownloadMode, LengthRange, Multipart, Overwrite, ResponseHeaders, UploadConstraints,
        UploadMode,
    },
    grant::{Lifetime, ObjectKey, SigningRequest},
    sign::{Canary, Key, Missing, Provider, SignError, Signed},
};

/// What good requests send.
const BODY: &[u8] = b"valet canary 1\n";
/// As long, and other bytes.
const OTHER: &[u8] = b"valet canary 2\n";
/// A byte more.
const LONGER: &[u8] = b"valet canary 10\n";
const TYPE: &str = "text/plain";
const OTHER_TYPE: &str = "text/html";
/// How long its keys live, in seconds; those that are to be over, ended as long ago. More than clocks may differ before
/// the store's condition says so.
const SECONDS: i64 = 120;

/// The store does not answer any more.
struct Away(String);

/// How a request departs from the key.
type Bend = fn(&mut Sent);

/// A request as it is sent.
struct Sent {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    fields: Option<Vec<(String, String)>>,
    body: Vec<u8>,
}

struct Trip<'a> {
    s3: &'a S3,
    client: Client,
    folder: String,
    written: Vec<String>,
    found: Canary,
}

/// Makes the round trip below a key of `s3`'s bucket. Its keys are for the endpoint that the operator uses.
pub async fn canary(s3: &S3, probe_key: &str) -> Canary {
    let client = match s3.session().await {
        Ok(session) => session.talker.clone(),
        Err(e) => {
            return Canary {
                untried: vec![e.to_string()],
                ..Canary::default()
            };
        }
    };
    let mut trip = Trip {
        s3,
        client,
        // Several operators may be told of one request in the same moment.
        folder: format!(
            "{probe_key}/canary-{}-{}",
            Timestamp::now().as_nanosecond(),
            std::process::id()
        ),
        written: Vec::new(),
        found: Canary::default(),
    };
    if let Err(Away(why)) = trip.go().await {
        trip.found.interrupted = true;
        trip.found.untried.push(format!("the rest: {why}"));
    }
    trip.clear_away().await;
    trip.found
}

fn put(constraints: UploadConstraints) -> Ask {
    Ask::Upload {
        mode: UploadMode::Put,
        multipart: Multipart::default(),
        constraints,
    }
}

/// Everything that a presigned PUT can pin down.
fn pinned() -> UploadConstraints {
    UploadConstraints {
        content_type: Some(TYPE.into()),
        content_length: Some(BODY.len() as i64),
        checksum_sha256: Some(BASE64_STANDARD.encode(digest(&SHA256, BODY))),
        overwrite: Overwrite::Forbid,
        ..UploadConstraints::default()
    }
}

fn form() -> Ask {
    let size = BODY.len() as i64;
    Ask::Upload {
        mode: UploadMode::PostForm,
        multipart: Multipart::default(),
        constraints: UploadConstraints {
            content_length: None,
            content_length_range: Some(LengthRange { min: 1, max: size }),
            overwrite: Overwrite::Allow,
            ..pinned()
        },
    }
}

fn get() -> Ask {
    Ask::Download {
        mode: DownloadMode::Url,
        version: None,
        response: ResponseHeaders {
            content_type: Some(TYPE.into()),
            ..ResponseHeaders::default()
        },
    }
}

fn is_taken(status: u16) -> bool {
    status < 300
}

impl Trip<'_> {
    async fn go(&mut self) -> Result<(), Away> {
        let good = self.try_out("put", &put(pinned()), false, |_| {}).await?;
        if !is_taken(good) {
            self.found.untried.push(format!(
                "all of it: a key for PUT below {} was answered {good}; the credentials must be allowed to write there, with the encryption that the bucket asks for",
                self.folder
            ));
            return Ok(());
        }
        self.holds(put(pinned()), "put", |_| {}, Missing::Url(Capability::WriteOnce))
            .await?;
        let bends: [(&str, Bend, Capability); 3] = [
            ("type", |r| r.set("content-type", OTHER_TYPE), Capability::ContentType),
            ("length", |r| r.body = LONGER.into(), Capability::ContentLength),
            ("checksum", |r| r.body = OTHER.into(), Capability::ChecksumSHA256),
        ];
        for (name, bend, capability) in bends {
            self.holds(put(pinned()), name, bend, Missing::Url(capability)).await?;
        }
        self.binds("PUT", "put-x", &put(pinned())).await?;

        if is_taken(self.try_out("put", &get(), false, |_| {}).await?) {
            let other: Bend = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
            self.holds(get(), "put", other, Missing::Url(Capability::ResponseHeaders))
                .await?;
            self.binds("GET", "put", &get()).await?;
        } else {
            let why = "keys for GET: the credentials may not read below probeKey";
            self.found.untried.push(why.into());
        }

        let good = self.try_out("form", &form(), false, |_| {}).await?;
        if !is_taken(good) {
            self.found.missing.push(Missing::Forms);
            let why = format!("what forms promise, since one that keeps to it was answered {good}");
            self.found.untried.push(why);
            return Ok(());
        }
        let bends: [(&str, Bend, Capability); 3] = [
            (
                "form-type",
                |r| r.set("Content-Type", OTHER_TYPE),
                Capability::ContentType,
            ),
            (
                "form-length",
                |r| r.body = LONGER.into(),
                Capability::ContentLengthRange,
            ),
            ("form-checksum", |r| r.body = OTHER.into(), Capability::ChecksumSHA256),
        ];
        for (name, bend, capability) in bends {
            self.holds(form(), name, bend, Missing::Form(capability)).await?;
        }
        self.binds("POST", "form-x", &form()).await
    }

    /// One promise: a request that breaks it must be refused.
    async fn holds(&mut self, ask: Ask, name: &str, bend: Bend, promise: Missing) -> Result<(), Away> {
        if is_taken(self.try_out(name, &ask, false, bend).await?) {
            self.found.missing.push(promise);
        } else {
            self.found.held.push(promise.name());
        }
        Ok(())
    }

    /// What every key promises: its end, its signature, its object.
    async fn binds(&mut self, verb: &str, name: &str, ask: &Ask) -> Result<(), Away> {
        let over: Bend = |_| {};
        for (what, is_over, bend) in [
            ("that is over", true, over),
            ("with another signature", false, Sent::forge as Bend),
            ("for another object", false, Sent::stray as Bend),
        ] {
            let status = self.try_out(name, ask, is_over, bend).await?;
            // Of an object that is not there: it would have been looked for.
            if is_taken(status) || status == 404 {
                let why = format!(
                    "the store takes a key for {verb} {what} (it answered {status}), so nothing that a key says is worth anything"
                );
                self.found.worthless.get_or_insert(why);
            }
        }
        self.found.held.push(format!("end, signature and object of {verb}"));
        Ok(())
    }

    /// Signs a key for an object as a grant's is signed, and sends one request with it. Returns what was answered.
    async fn try_out(&mut self, name: &str, ask: &Ask, is_over: bool, bend: Bend) -> Result<u16, Away> {
        let key = format!("{}/{name}", self.folder);
        let ends = if is_over { -SECONDS } else { SECONDS };
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let expires_at = now + SignedDuration::from_secs(ends);
        let request = SigningRequest {
            key: ObjectKey::parse(&key, usize::MAX).map_err(|e| Away(e.to_string()))?,
            ask: ask.clone(),
            lifetime: Lifetime {
                issued_at: expires_at - SignedDuration::from_secs(SECONDS),
                expires_at,
            },
            holder: "valet.canary".into(),
            upload: None,
        };
        let signed = self.s3.sign(&request).await.map_err(|e| match e {
            SignError::Credentials { message, .. } => Away(message),
            e => Away(e.to_string()),
        })?;
        let mut sent = Sent::good(&signed).ok_or_else(|| Away("the key is no request".into()))?;
        bend(&mut sent);
        // Wherever the request leads, what it may have written is to be cleared away.
        if sent.method != "GET" {
            self.written.push(key);
        }
        self.send(sent).await
    }

    async fn send(&self, sent: Sent) -> Result<u16, Away> {
        let (body, content_type) = sent.content();
        let raw = Raw {
            method: sent.method,
            uri: sent.url,
            headers: sent.headers.into_iter().chain(content_type).collect(),
        };
        let request = self.client.put_object().bucket(&self.s3.store.bucket).key(&self.folder);
        let answer = request
            .body(ByteStream::from(body))
            .customize()
            // A second try of a write-once upload would be refused for the first one's sake.
            .config_override(Config::builder().retry_config(RetryConfig::disabled()))
            .interceptor(raw)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(200),
            Err(e) => match e.raw_response().map(|r| r.status().as_u16()) {
                Some(status) if status < 500 || status == 501 => Ok(status),
                _ => Err(Away(super::unreachable(&e))),
            },
        }
    }

    /// Deletes whatever may have been written, in every version.
    async fn clear_away(&mut self) {
        self.written.push(format!("{}/{STRAY}", self.folder));
        self.written.sort();
        self.written.dedup();
        let bucket = &self.s3.store.bucket;
        let listed = self
            .client
            .list_object_versions()
            .bucket(bucket)
            .prefix(format!("{}/", self.folder))
            .send()
            .await;
        let versions: Vec<(String, Option<String>)> = match listed {
            Ok(list) => {
                let versions = list.versions().iter().map(|v| (v.key(), v.version_id()));
                let markers = list.delete_markers().iter().map(|m| (m.key(), m.version_id()));
                versions
                    .chain(markers)
                    .filter_map(|(key, version)| Some((key?.to_owned(), version.map(str::to_owned))))
                    .collect()
            }
            // Not everybody may list, and not every store keeps versions.
            Err(_) => self.written.iter().map(|key| (key.clone(), None)).collect(),
        };
        let mut left = 0;
        for (key, version) in versions {
            let delete = self.client.delete_object().bucket(bucket).key(key);
            let answer = delete.set_version_id(version).send().await;
            let is_gone = answer.is_ok_and(|_| true);
            left += usize::from(!is_gone);
        }
        if left > 0 {
            self.found.left = Some(format!(
                "what it wrote below {} could not all be deleted: allow s3:DeleteObject there, or delete it",
                self.folder
            ));
        }
    }
}

/// The object that keys for others are bent to.
const STRAY: &str = "stray";

impl Sent {
    /// What the holder of the key sends who keeps to it; `None` for a key that is no single request.
    fn good(signed: &Signed) -> Option<Self> {
        let (method, url, headers, fields) = match &signed.key {
            Key::Request { url, method, headers } => (method.clone(), url, headers.clone(), None),
            Key::Form { url, fields } => ("POST".to_owned(), url, Vec::new(), Some(fields.expose().to_vec())),
            Key::Parts(_) | Key::Credentials(_) => return None,
        };
        Some(Self {
            body: if method == "GET" { Vec::new() } else { BODY.into() },
            url: url.expose().to_owned(),
            method,
            headers,
            fields,
        })
    }

    /// Sets a header, or a form's field.
    fn set(&mut self, name: &str, value: &str) {
        let list = self.fields.as_mut().unwrap_or(&mut self.headers);
        for (_, old) in list.iter_mut().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            value.clone_into(old);
        }
    }

    /// Alters the signature by one digit.
    fn forge(&mut self) {
        let flip = |text: &mut String| {
            let last = text.pop();
            text.push(if last == Some('0') { '1' } else { '0' });
        };
        if let Some(fields) = &mut self.fields {
            fields
                .iter_mut()
                .filter(|(name, _)| name == "x-amz-signature")
                .for_each(|(_, value)| flip(value));
            return;
        }
        const NAME: &str = "X-Amz-Signature=";
        if let Some(start) = self.url.find(NAME).map(|at| at + NAME.len()) {
            let end = self.url[start..].find('&').map_or(self.url.len(), |n| start + n);
            let mut signature = self.url[start..end].to_owned();
            flip(&mut signature);
            self.url.replace_range(start..end, &signature);
        }
    }

    /// Turns to another object beside the key's.
    fn stray(&mut self) {
        fn beside(path: &str) -> String {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{STRAY}")
        }
        match &mut self.fields {
            Some(fields) => fields
                .iter_mut()
                .filter(|(name, _)| name == "key")
                .for_each(|(_, key)| *key = beside(key)),
            None => {
                let (path, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
                self.url = format!("{}?{query}", beside(path));
            }
        }
    }

    /// The body, and of a form what says how it is divided.
    fn content(&self) -> (Vec<u8>, Option<(String, String)>) {
        let Some(fields) = &self.fields else {
            return (self.body.clone(), None);
        };
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
        let boundary = format!("valet-{nanos}");
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        let file = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"canary\"\r\ncontent-type: {TYPE}\r\n\r\n"
        );
        body.extend_from_slice(file.as_bytes());
        body.extend_from_slice(&self.body);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={boundary}");
        (body, Some(("content-type".into(), content_type)))
    }
}

/// Replaces a request of the SDK's by one that was made from a key, with its body.
struct Raw {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw(<redacted>)")
    }
}

impl Intercept for Raw {
    fn name(&self) -> &'static str {
        "Raw"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let request = context.request_mut();
        request.set_method(&self.method)?;
        request.set_uri(self.uri.clone())?;
        let headers = request.headers_mut();
        let of_the_sdk: Vec<_> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| {
                name == "authorization"
                    || name == "content-type"
                    || name.starts_with("x-amz-")
                    || name.starts_with("amz-sdk")
            })
            .collect();
        for name in of_the_sdk {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            // Both follow from what is really sent.
            if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
                headers.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        Ok(())
    }
}
