//! A round trip with real keys: blobs below the probe's are written and read with keys as grants get them, and every promise
//! of a key is broken once. What was written is deleted.

use http::{Method, Request, header};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{AzureBlob, requests::Trouble};
use crate::{
    api::{Ask, Capability, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    grant::{Lifetime, ObjectKey, SigningRequest},
    sign::{Canary, Key, Missing, SignError, Signed},
};

/// What good requests send.
const BODY: &[u8] = b"valet canary\n";
/// How long its keys live, in seconds; those that are to be over, ended as long ago. More than clocks may differ before
/// the store's condition says so.
const SECONDS: i64 = 120;
/// The blob that keys for others are bent to.
const STRAY: &str = "stray";

/// The store does not answer any more.
struct Away(String);

/// How a request departs from the key.
type Bend = fn(&mut Sent);

/// A request as it is sent.
struct Sent {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
}

struct Trip<'a> {
    azure: &'a AzureBlob,
    folder: String,
    written: Vec<String>,
    found: Canary,
}

impl AzureBlob {
    /// Makes the round trip below `probe`, with keys for the endpoint that the operator uses.
    pub(super) async fn round_trip(&self, probe: &str) -> Canary {
        let mut trip = Trip {
            azure: self,
            folder: format!("{probe}/canary-{}", Timestamp::now().as_nanosecond()),
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
}

/// A write-once upload.
fn put() -> Ask {
    Ask::Upload {
        mode: UploadMode::Put,
        multipart: Default::default(),
        constraints: UploadConstraints {
            overwrite: Overwrite::Forbid,
            ..UploadConstraints::default()
        },
    }
}

fn get() -> Ask {
    Ask::Download {
        mode: Default::default(),
        version: None,
        response: ResponseHeaders {
            content_type: Some("text/plain".into()),
            ..ResponseHeaders::default()
        },
    }
}

fn is_taken(status: u16) -> bool {
    status < 300
}

impl Trip<'_> {
    async fn go(&mut self) -> Result<(), Away> {
        let good = self.try_out("put", &put(), false, |_| {}).await?;
        if !is_taken(good) {
            self.found.untried.push(format!(
                "all of it: a key for PUT below {} was answered {good}; the credentials must be allowed to write there",
                self.folder
            ));
            return Ok(());
        }
        self.holds(put(), "put", |_| {}, Capability::WriteOnce).await?;
        self.binds("PUT", "put-x", &put(), |r| r.method = "DELETE".into())
            .await?;

        if is_taken(self.try_out("put", &get(), false, |_| {}).await?) {
            let other: Bend = |r| r.url = r.url.replace("rsct=text/plain", "rsct=text/html");
            self.holds(get(), "put", other, Capability::ResponseHeaders).await?;
            self.binds("GET", "put", &get(), |r| {
                r.method = "PUT".into();
                r.headers.push(("x-ms-blob-type".into(), "BlockBlob".into()));
            })
            .await?;
        } else {
            let why = "keys for GET: the credentials may not read below the probe's blob";
            self.found.untried.push(why.into());
        }
        Ok(())
    }

    /// One promise: a request that breaks it must be refused.
    async fn holds(&mut self, ask: Ask, name: &str, bend: Bend, promise: Capability) -> Result<(), Away> {
        if is_taken(self.try_out(name, &ask, false, bend).await?) {
            self.found.missing.push(Missing::Url(promise));
        } else {
            self.found.held.push(promise.as_str().to_owned());
        }
        Ok(())
    }

    /// What every key promises: its end, its signature, its blob, its verb.
    async fn binds(&mut self, verb: &str, name: &str, ask: &Ask, other_verb: Bend) -> Result<(), Away> {
        let over: Bend = |_| {};
        for (what, is_over, bend) in [
            ("that is over", true, over),
            ("with another signature", false, Sent::forge as Bend),
            ("for another object", false, Sent::stray as Bend),
            ("with another verb", false, other_verb),
        ] {
            let status = self.try_out(name, ask, is_over, bend).await?;
            // Of a blob that is not there: it would have been looked for.
            if is_taken(status) || status == 404 {
                let why = format!(
                    "the store takes a key for {verb} {what} (it answered {status}), so nothing that a key says is worth anything"
                );
                self.found.worthless.get_or_insert(why);
            }
        }
        self.found
            .held
            .push(format!("end, signature, object and verb of {verb}"));
        Ok(())
    }

    /// Signs a key for a blob as a grant's is signed, and sends one request with it. Returns what was answered.
    async fn try_out(&mut self, name: &str, ask: &Ask, is_over: bool, bend: Bend) -> Result<u16, Away> {
        let blob = format!("{}/{name}", self.folder);
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let expires_at = now + SignedDuration::from_secs(if is_over { -SECONDS } else { SECONDS });
        let request = SigningRequest {
            key: ObjectKey::parse(&blob, usize::MAX).map_err(|e| Away(e.to_string()))?,
            ask: ask.clone(),
            lifetime: Lifetime {
                issued_at: expires_at - SignedDuration::from_secs(SECONDS),
                expires_at,
            },
            holder: "valet.canary".into(),
            upload: None,
        };
        // From where the operator is, to where it reaches the store.
        let base = self.azure.own_base();
        let signed = self.azure.sign_for(&request, &base, None).await;
        let signed = signed.map_err(|e| match e {
            SignError::Credentials { message, .. } => Away(message),
            e => Away(e.to_string()),
        })?;
        let mut sent = Sent::good(&signed);
        bend(&mut sent);
        // Wherever the request leads, what it may have written is to be cleared away.
        if sent.method == "PUT" {
            self.written.push(blob);
        }
        let body = if sent.method == "PUT" { BODY } else { b"" };
        let mut request = Request::builder().method(sent.method.as_str()).uri(sent.url);
        for (name, value) in sent.headers {
            request = request.header(name, value);
        }
        let request = request
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from_static(body)))
            .map_err(|_| Away("a request could not be put together".into()))?;
        match self.azure.http.send(request).await {
            Ok(answer) if answer.status < 500 || answer.status == 501 => Ok(answer.status),
            Ok(answer) => Err(Away(format!("it answered {}", answer.status))),
            Err(e) => Err(Away(e.to_string())),
        }
    }

    /// Deletes whatever may have been written. What the account keeps of deleted blobs, it keeps.
    async fn clear_away(&mut self) {
        self.written.push(format!("{}/{STRAY}", self.folder));
        self.written.sort();
        self.written.dedup();
        let mut left = false;
        for blob in &self.written {
            let answer = self.azure.own_request(Method::DELETE, blob, "d", None).await;
            left |= match answer {
                Ok(answer) => !matches!(answer.status, 202 | 404),
                Err(Trouble::Credentials(_) | Trouble::Unanswered(_)) => true,
            };
        }
        if left {
            self.found.left = Some(format!(
                "what it wrote below {} could not all be deleted: allow the identity to delete there, or delete it",
                self.folder
            ));
        }
    }
}

impl Sent {
    /// What the holder of the key sends who keeps to it.
    fn good(signed: &Signed) -> Self {
        let Key::Request { method, url, headers } = &signed.key else {
            unreachable!("all keys for Azure are one request")
        };
        Self {
            method: method.clone(),
            url: url.expose().to_owned(),
            headers: headers.clone(),
        }
    }

    /// Alters the signature by one character.
    fn forge(&mut self) {
        if let Some(at) = self.url.find("&sig=").map(|at| at + "&sig=".len()) {
            let other = if self.url[at..].starts_with('A') { "B" } else { "A" };
            let length = if self.url[at..].starts_with('%') { 3 } else { 1 };
            self.url.replace_range(at..at + length, other);
        }
    }

    /// Turns to another blob beside the key's.
    fn stray(&mut self) {
        let (path, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.url = format!("{folder}/{STRAY}?{query}");
    }
}
