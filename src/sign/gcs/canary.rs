//! A round trip with real keys: objects below the probe key are written and read with keys as grants get them, and every
//! promise of a key is broken once. What was written is deleted.

use std::time::SystemTime;

use http::Method;
use jiff::{SignedDuration, Timestamp};

use super::{
    Gcs, Target,
    tokens::{ask, request},
};
use crate::{
    api::{Ask, Capability, LengthRange, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    grant::{Lifetime, ObjectKey, SigningRequest, second},
    sign::{Canary, Key, Missing, SignError, Signed},
};

/// What good requests send.
const BODY: &[u8] = b"valet canary 1\n";
/// A byte more.
const LONGER: &[u8] = b"valet canary 10\n";
const TYPE: &str = "text/plain";
const OTHER_TYPE: &str = "text/html";
/// How long its keys live, in seconds; those that are to be over, ended as long ago.
const SECONDS: i64 = 120;
/// The object that keys for others are bent to.
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
    fields: Option<Vec<(String, String)>>,
    body: Vec<u8>,
}

struct Trip<'a> {
    gcs: &'a Gcs,
    folder: String,
    written: Vec<String>,
    found: Canary,
}

/// Makes the round trip below a key of the bucket. Its keys are for the endpoint that the operator uses.
pub async fn canary(gcs: &Gcs, probe_key: &str) -> Canary {
    let mut trip = Trip {
        gcs,
        folder: format!("{probe_key}/canary-{}", Timestamp::now().as_nanosecond()),
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

fn upload(mode: UploadMode, overwrite: Overwrite) -> Ask {
    let size = BODY.len() as i64;
    Ask::Upload {
        mode,
        multipart: Default::default(),
        constraints: UploadConstraints {
            content_type: Some(TYPE.into()),
            content_length_range: Some(LengthRange { min: 1, max: size }),
            overwrite,
            ..UploadConstraints::default()
        },
    }
}

fn put() -> Ask {
    upload(UploadMode::Put, Overwrite::Forbid)
}

fn form() -> Ask {
    upload(UploadMode::PostForm, Overwrite::Allow)
}

fn get() -> Ask {
    Ask::Download {
        mode: Default::default(),
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
        let good = self.try_out("put", &put(), false, |_| {}).await?;
        if !is_taken(good) {
            self.found.untried.push(format!(
                "all of it: a key for PUT below {} was answered {good}; the account must be allowed to create objects there",
                self.folder
            ));
            return Ok(());
        }
        let by_length: Bend = |r| r.body = LONGER.into();
        let by_type: Bend = |r| r.set("content-type", OTHER_TYPE);
        let url = |c| vec![Missing::Url(c)];
        self.holds(&put(), "put", |_| {}, url(Capability::WriteOnce)).await?;
        self.holds(&put(), "type", by_type, url(Capability::ContentType))
            .await?;
        // One header holds either.
        let either = vec![
            Missing::Url(Capability::ContentLengthRange),
            Missing::Url(Capability::ContentLength),
        ];
        self.holds(&put(), "length", by_length, either).await?;
        self.binds("PUT", "put-x", &put()).await?;

        if is_taken(self.try_out("put", &get(), false, |_| {}).await?) {
            let other: Bend = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
            self.holds(&get(), "put", other, url(Capability::ResponseHeaders))
                .await?;
            self.binds("GET", "put", &get()).await?;
        } else {
            let why = "keys for GET: the account may not read below probeKey";
            self.found.untried.push(why.into());
        }

        let good = self.try_out("form", &form(), false, |_| {}).await?;
        if !is_taken(good) {
            self.found.missing.push(Missing::Forms);
            let why = format!("what forms promise, since one that keeps to it was answered {good}");
            self.found.untried.push(why);
            return Ok(());
        }
        let of_form = |c| vec![Missing::Form(c)];
        self.holds(&form(), "form-type", by_type, of_form(Capability::ContentType))
            .await?;
        let either = vec![
            Missing::Form(Capability::ContentLengthRange),
            Missing::Form(Capability::ContentLength),
        ];
        self.holds(&form(), "form-length", by_length, either).await?;
        self.binds("POST", "form-x", &form()).await
    }

    /// Promises that one request breaks: it must be refused.
    async fn holds(&mut self, ask: &Ask, name: &str, bend: Bend, promises: Vec<Missing>) -> Result<(), Away> {
        if is_taken(self.try_out(name, ask, false, bend).await?) {
            self.found.missing.extend(promises);
        } else {
            self.found.held.extend(promises.into_iter().map(Missing::name));
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
        let expires_at = second(Timestamp::now()) + SignedDuration::from_secs(ends);
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
        let signed = self.gcs.key_for(Target::Operator, &request).await.map_err(away)?;
        let mut sent = Sent::good(&signed);
        bend(&mut sent);
        // Wherever the request leads, what it may have written is to be cleared away.
        if sent.method != "GET" {
            self.written.push(name.to_owned());
        }
        self.send(sent).await
    }

    async fn send(&self, sent: Sent) -> Result<u16, Away> {
        let (body, content_type) = sent.content();
        let headers: Vec<(&str, &str)> = sent
            .headers
            .iter()
            .chain(&content_type)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let method = Method::from_bytes(sent.method.as_bytes()).unwrap_or_default();
        let request = request(method, &sent.url, &headers, body).map_err(away)?;
        let answer = ask(&self.gcs.http, "the store", request).await.map_err(away)?;
        Ok(answer.status)
    }

    /// Deletes whatever may have been written. A bucket that keeps versions keeps them.
    async fn clear_away(&mut self) {
        self.written.push(STRAY.into());
        self.written.sort();
        self.written.dedup();
        let mut left = 0;
        for name in &self.written {
            let key = format!("{}/{name}", self.folder);
            let answer = self.gcs.send("DELETE", &key, &[], &[]).await;
            let is_gone = answer.is_ok_and(|a| a.status < 300 || a.status == 404);
            left += usize::from(!is_gone);
        }
        if left > 0 {
            self.found.left = Some(format!(
                "what it wrote below {} could not all be deleted: allow storage.objects.delete there, or delete it",
                self.folder
            ));
        }
    }
}

fn away(error: SignError) -> Away {
    Away(match error {
        SignError::Credentials { message, .. } => message,
        e => e.to_string(),
    })
}

impl Sent {
    /// What the holder of the key sends who keeps to it.
    fn good(signed: &Signed) -> Self {
        let (method, url, headers, fields) = match &signed.key {
            Key::Request { method, url, headers } => (method.as_str(), url.expose(), headers.clone(), None),
            Key::Form { url, fields } => ("POST", url.expose(), Vec::new(), Some(fields.expose().to_vec())),
            Key::Parts(_) | Key::Credentials(_) => unreachable!("no canary asks for parts or credentials"),
        };
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            headers,
            fields,
            body: if method == "GET" { Vec::new() } else { BODY.into() },
        }
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
        // It is the last of a URL.
        let signature = match &mut self.fields {
            Some(fields) => fields
                .iter_mut()
                .find(|(name, _)| name == "x-goog-signature")
                .map(|(_, value)| value),
            None => Some(&mut self.url),
        };
        if let Some(text) = signature {
            let last = text.pop();
            text.push(if last == Some('0') { '1' } else { '0' });
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
