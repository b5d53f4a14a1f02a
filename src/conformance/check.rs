//! A round trip with real keys: objects below the probe key are written and read with keys as grants get them, and every
//! promise of a key is broken once. What was written is deleted.

use std::{collections::BTreeSet, time::Duration};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{Canary, Missing};
use crate::{
    api::{Ask, Capability, DownloadMode, ResponseHeaders},
    core::{Key, Lifetime, ObjectKey, SignError, Signed, SigningRequest, second},
};

/// What good requests send.
pub const BODY: &[u8] = b"valet canary 1\n";
/// Its MD5, in base64.
pub const BODY_MD5: &str = "vLvOurp3+zgX/XY+TXusGQ==";
/// As long, and other bytes.
pub const OTHER: &[u8] = b"valet canary 2\n";
/// A byte more.
pub const LONGER: &[u8] = b"valet canary 10\n";
/// The content type of good requests.
pub const TYPE: &str = "text/plain";
/// Another one.
pub const OTHER_TYPE: &str = "text/html";
/// How long its keys live, in seconds; those that are to be over, ended as long ago. More than clocks may differ before
/// the store's condition says so.
const SECONDS: i64 = 120;
/// The name of the file in a form.
const FILE: &str = "canary";
/// In a form's key, stores put that in place of this.
const FILE_NAME: &str = "${filename}";
/// The object that keys for others are bent to.
const STRAY: &str = "stray";

/// How long a trip may take.
const TRIP_TIMEOUT: Duration = Duration::from_secs(40);
/// How long it may take to delete what it wrote.
const CLEARING_TIMEOUT: Duration = Duration::from_secs(15);

/// Cuts a trip off that takes too long.
pub async fn in_time<T>(trip: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
    timeout(TRIP_TIMEOUT, trip).await.unwrap_or_else(|_| {
        let seconds = TRIP_TIMEOUT.as_secs();
        Err(Away(format!("the store is too slow: it took longer than {seconds} s")))
    })
}

/// The store does not answer any more, and why. No secrets.
pub struct Away(pub String);

impl From<SignError> for Away {
    fn from(error: SignError) -> Self {
        Self(match error {
            SignError::Credentials { message, .. } => message,
            e => e.to_string(),
        })
    }
}

/// How a request departs from the key.
pub type Bend = fn(&mut Sent);

/// What a provider does for the trip.
pub trait Hands: Sync {
    /// Signs a key for the endpoint that the operator reaches.
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Sends a request as it is, once; returns the status that was answered.
    fn send(&self, sent: Sent) -> BoxFuture<'_, Result<u16, Away>>;

    /// Alters the signature by one character.
    fn forge(sent: &mut Sent)
    where
        Self: Sized;

    /// Deletes these objects, which are in the folder, and nothing else. If not all could be deleted: what
    /// to allow, as the rest of "to delete it, allow".
    fn clear_away<'a>(
        &'a self,
        folder: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>>;
}

/// The trip, and what it has found so far.
pub struct Trip<'a, H> {
    hands: &'a H,
    /// Below the probe key, and its own.
    pub folder: String,
    /// The upload in parts that its keys are for, while it tries one.
    pub upload: Option<String>,
    written: BTreeSet<String>,
    /// What came of it.
    pub found: Canary,
}

impl<'a, H: Hands> Trip<'a, H> {
    /// Sets out to below this key.
    pub fn new(hands: &'a H, probe_key: &str) -> Self {
        Self {
            hands,
            // Several operators may be told of one request in the same moment.
            folder: format!(
                "{probe_key}/canary-{}-{}",
                Timestamp::now().as_nanosecond(),
                std::process::id()
            ),
            upload: None,
            written: BTreeSet::new(),
            found: Canary::default(),
        }
    }

    /// Comes back from wherever it got to, and leaves nothing behind.
    pub async fn end(mut self, result: Result<(), Away>) -> Canary {
        if let Err(Away(why)) = result {
            self.found.interrupted = true;
            self.found.untried.push(format!("the rest: {why}"));
        }
        self.wrote(STRAY);
        let cleared = timeout(CLEARING_TIMEOUT, self.hands.clear_away(&self.folder, &self.written)).await;
        let folder = &self.folder;
        self.found.left = match cleared {
            Ok(None) => None,
            Ok(Some(remedy)) => Some(format!(
                "what it wrote below {folder} could not all be deleted: allow {remedy} there, or delete it"
            )),
            Err(_) => Some(format!(
                "what it wrote below {folder} could not all be deleted within {} s: delete it",
                CLEARING_TIMEOUT.as_secs()
            )),
        };
        self.found
    }

    /// Whether a request that keeps to the key is taken; otherwise what was answered.
    pub async fn good(&mut self, name: &str, ask: &Ask) -> Result<Result<(), u16>, Away> {
        let status = self.try_out(name, ask, false, |_| {}).await?;
        Ok(if is_taken(status) { Ok(()) } else { Err(status) })
    }

    /// Promises that one request breaks: it must be refused.
    pub async fn holds(&mut self, ask: &Ask, name: &str, bend: Bend, promises: &[Missing]) -> Result<(), Away> {
        if is_taken(self.try_out(name, ask, false, bend).await?) {
            self.found.missing.extend(promises);
        } else {
            self.found.held.extend(promises.iter().map(|promise| promise.name()));
        }
        Ok(())
    }

    /// What every key promises: its end, its signature, its object; and its verb, if there is a way to try another.
    pub async fn binds(&mut self, verb: &str, name: &str, ask: &Ask, other_verb: Option<Bend>) -> Result<(), Away> {
        let all: [(&str, bool, Option<Bend>); 4] = [
            ("that is over", true, Some(|_| {})),
            ("with another signature", false, Some(H::forge)),
            ("for another object", false, Some(Sent::stray)),
            ("with another verb", false, other_verb),
        ];
        for (what, is_over, bend) in all {
            let Some(bend) = bend else { continue };
            let status = self.try_out(name, ask, is_over, bend).await?;
            // Of an object that is not there: it would have been looked for.
            if is_taken(status) || status == 404 {
                let why = format!(
                    "the store takes a key for {verb} {what} (it answered {status}), so nothing that a key says is worth anything"
                );
                self.found.worthless.get_or_insert(why);
            }
        }
        self.found.held.push(match other_verb {
            Some(_) => format!("end, signature, object and verb of {verb}"),
            None => format!("end, signature and object of {verb}"),
        });
        Ok(())
    }

    /// Promises that a form for everything below a key keeps to that. `is_expected`: whether the store is thought to keep
    /// it without having been tried.
    pub async fn below(&mut self, ask: &Ask, is_expected: bool) -> Result<(), Away> {
        let promise = Missing::Form(Capability::KeyPrefix);
        match self.keeps_below(ask).await? {
            Ok(()) => self.found.held.push(promise.name()),
            Err(why) => {
                self.found.without.push(format!("{} ({why})", promise.name()));
                if is_expected {
                    self.found.missing.push(promise);
                }
            }
        }
        Ok(())
    }

    /// Whether a form for everything below a key, which this one becomes, keeps to that: what is named by its file or
    /// otherwise arrives below, and nothing arrives beside it. Keys for GET must work: they show where something arrived.
    /// If it does not: why.
    async fn keeps_below(&mut self, ask: &Ask) -> Result<Result<(), String>, Away> {
        let inside = |name: &str| format!("in/{name}");
        // Where it arrives depends on what the store makes of the file's name.
        self.wrote(&inside(FILE));
        self.wrote(&inside(FILE_NAME));
        if let Err(status) = self.good(&inside(""), ask).await? {
            return Ok(Err(format!("a form for a key prefix was answered {status}")));
        }
        if !self.exists(&inside(FILE)).await? {
            return Ok(Err(format!(
                "the store does not put the file's name in place of {FILE_NAME}"
            )));
        }
        // Beside it, whatever is made of the rest.
        for key in ["in-2/x", "in", "IN/x"] {
            if is_taken(self.try_below(ask, key, FILE).await?) {
                return Ok(Err(format!("it takes {key} with a form for in/")));
            }
        }
        // Below it by the letter. Where such a key is a name like others, it may be taken.
        for (n, key) in ["in/../{}", "in/%2e%2e/{}", "in/..%2f{}", "in/..\\{}"]
            .into_iter()
            .enumerate()
        {
            let escaped = format!("out-{n}");
            self.try_below(ask, &key.replace("{}", &escaped), FILE).await?;
            if self.exists(&escaped).await? {
                return Ok(Err(format!(
                    "it takes {} for an object above in/",
                    key.replace("{}", "x")
                )));
            }
        }
        let escaped = "out-by-file";
        let file = format!("../{escaped}");
        if is_taken(self.try_below(ask, &inside(FILE_NAME), &file).await?) {
            for name in [file.as_str(), escaped] {
                self.wrote(&inside(name));
            }
        }
        if self.exists(escaped).await? {
            return Ok(Err("it takes a file's name ../x for an object above in/".into()));
        }
        Ok(match is_taken(self.try_below(ask, "in/a/b", FILE).await?) {
            true => Ok(()),
            false => Err("it refuses in/a/b with a form for in/".into()),
        })
    }

    /// Sends a form for everything below `in` with this key, in the trip's folder, and this name of the file.
    async fn try_below(&mut self, ask: &Ask, key: &str, file: &str) -> Result<u16, Away> {
        let key = format!("{}/{key}", self.folder);
        let mut sent = self.sent("in/", ask, false).await?;
        sent.set("key", &key);
        file.clone_into(&mut sent.file_name);
        let answer = self.hands.send(sent).await;
        // Not every store deletes by a name that it would not take.
        if answer.as_ref().map_or(true, |status| is_taken(*status)) {
            self.written.insert(key);
        }
        answer
    }

    /// Whether a key for GET finds this object.
    pub async fn exists(&mut self, name: &str) -> Result<bool, Away> {
        let is_there = is_taken(self.try_out(name, &get(), false, |_| {}).await?);
        if is_there {
            self.wrote(name);
        }
        Ok(is_there)
    }

    /// Signs a key for an object as a grant's is signed, and sends one request with it. Returns what was answered.
    async fn try_out(&mut self, name: &str, ask: &Ask, is_over: bool, bend: Bend) -> Result<u16, Away> {
        let mut sent = self.sent(name, ask, is_over).await?;
        bend(&mut sent);
        // Wherever the request leads, what it may have written is to be cleared away.
        if sent.method != "GET" && !name.ends_with('/') {
            self.wrote(name);
        }
        self.hands.send(sent).await
    }

    /// The request that keeps to a key for this object, or for what is below it if it ends with '/'.
    async fn sent(&self, name: &str, ask: &Ask, is_over: bool) -> Result<Sent, Away> {
        let signed = self.hands.sign(&self.request(name, ask, is_over)?).await?;
        Sent::good(&signed).ok_or_else(|| Away("the key is no request".into()))
    }

    /// What is signed for it.
    pub fn request(&self, name: &str, ask: &Ask, is_over: bool) -> Result<SigningRequest, Away> {
        let key = format!("{}/{name}", self.folder);
        let ends = if is_over { -SECONDS } else { SECONDS };
        let expires_at = second(Timestamp::now()) + SignedDuration::from_secs(ends);
        Ok(SigningRequest {
            key: ObjectKey::parse_scope(&key, usize::MAX).map_err(|e| Away(e.to_string()))?,
            ask: ask.clone(),
            lifetime: Lifetime {
                issued_at: expires_at - SignedDuration::from_secs(SECONDS),
                expires_at,
            },
            holder: "valet.canary".into(),
            upload: self.upload.clone(),
        })
    }

    /// An object of this name may have been written.
    pub fn wrote(&mut self, name: &str) {
        self.written.insert(format!("{}/{name}", self.folder));
    }
}

fn is_taken(status: u16) -> bool {
    status < 300
}

/// A download that is answered with a content type.
pub fn get() -> Ask {
    Ask::Download {
        mode: DownloadMode::Url,
        version: None,
        response: ResponseHeaders {
            content_type: Some(TYPE.into()),
            ..ResponseHeaders::default()
        },
    }
}

/// A request as it is sent.
pub struct Sent {
    /// The HTTP method.
    pub method: String,
    /// Where.
    pub url: String,
    /// Its headers, those that the key says.
    pub headers: Vec<(String, String)>,
    /// Of a form: its fields, in order.
    pub fields: Option<Vec<(String, String)>>,
    /// The object.
    pub body: Vec<u8>,
    /// Of a form: the name of its file.
    pub file_name: String,
}

impl Sent {
    /// What the holder of the key sends who keeps to it; `None` for a key that is no single request.
    fn good(signed: &Signed) -> Option<Self> {
        let (method, url, headers, fields) = match &signed.key {
            Key::Request { url, method, headers } => (method.clone(), url, headers.clone(), None),
            Key::Form { url, fields } => ("POST".to_owned(), url, Vec::new(), Some(fields.expose().to_vec())),
            Key::Parts(parts) => match parts.as_slice() {
                [part] => ("PUT".to_owned(), &part.url, part.headers.clone(), None),
                _ => return None,
            },
            Key::Credentials(_) => return None,
        };
        Some(Self {
            body: if method == "GET" { Vec::new() } else { BODY.into() },
            url: url.expose().to_owned(),
            file_name: FILE.to_owned(),
            method,
            headers,
            fields,
        })
    }

    /// Sets a header, or a form's field.
    pub fn set(&mut self, name: &str, value: &str) {
        let list = self.fields.as_mut().unwrap_or(&mut self.headers);
        for (_, old) in list.iter_mut().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            value.clone_into(old);
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
    pub fn content(&self) -> (Vec<u8>, Option<(String, String)>) {
        let Some(fields) = &self.fields else {
            return (self.body.clone(), None);
        };
        let boundary = format!("valet-{}", Timestamp::now().as_nanosecond());
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        let file = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{}\"\r\ncontent-type: {TYPE}\r\n\r\n",
            self.file_name
        );
        body.extend_from_slice(file.as_bytes());
        body.extend_from_slice(&self.body);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={boundary}");
        (body, Some(("content-type".into(), content_type)))
    }
}

/// Alters a signature's last character.
pub fn forge_last(signature: &mut String) {
    let last = signature.pop();
    signature.push(if last == Some('0') { '1' } else { '0' });
}
