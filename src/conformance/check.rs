//! The conformance check. It writes and reads objects below the probe's object key, with credentials signed as for a
//! grant. For each constraint it sends one request that violates it. Afterwards it deletes the objects.

use std::{collections::BTreeSet, time::Duration};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{ConformanceReport, Missing};
use crate::{
    api::{Ask, Capability, DownloadMode, ResponseHeaders},
    core::{Credential, Lifetime, ObjectKey, SignError, Signed, SigningRequest, second},
};

/// The body of the conformance check's valid uploads.
pub const BODY: &[u8] = b"valet canary 1\n";
/// The MD5 of [`BODY`], in base64.
pub const BODY_MD5: &str = "vLvOurp3+zgX/XY+TXusGQ==";
/// A body with the same length as [`BODY`] and other bytes.
pub const OTHER: &[u8] = b"valet canary 2\n";
/// A body that is one byte longer than [`BODY`].
pub const LONGER: &[u8] = b"valet canary 10\n";
/// The content type of the conformance check's valid uploads.
pub const TYPE: &str = "text/plain";
/// A content type that differs from [`TYPE`].
pub const OTHER_TYPE: &str = "text/html";
/// The lifetime of the check's credentials, in seconds. The check's expired credentials expired this long ago. This
/// is longer than the clock skew that the store's condition reports.
const SECONDS: i64 = 120;
/// The file name in a form.
const FILE: &str = "canary";
/// Stores replace this text in a form's object key with the file name.
const FILE_NAME: &str = "${filename}";
/// The object that requests use instead of the signed one.
const STRAY: &str = "stray";

/// The timeout of the conformance check.
const TRIP_TIMEOUT: Duration = Duration::from_secs(40);
/// The timeout for deleting the objects that the conformance check wrote.
const CLEARING_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a conformance check with a timeout.
pub async fn in_time<T>(trip: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    timeout(TRIP_TIMEOUT, trip).await.unwrap_or_else(|_| {
        let seconds = TRIP_TIMEOUT.as_secs();
        Err(Unavailable(format!(
            "the store is too slow: the conformance check took longer than {seconds} s"
        )))
    })
}

/// The check stopped because the store does not answer. The text says why and contains no secrets.
pub struct Unavailable(pub String);

impl From<SignError> for Unavailable {
    fn from(error: SignError) -> Self {
        Self(match error {
            SignError::Credentials { message, .. } => message,
            e => e.to_string(),
        })
    }
}

/// A change that makes a request violate its credential.
pub type Tamper = fn(&mut PreparedRequest);

/// The operations that a provider implements for the conformance check.
pub trait Transport: Sync {
    /// Signs a credential for the operator's endpoint.
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Sends a request unchanged and without a retry. Returns the status of the answer.
    fn send(&self, sent: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>>;

    /// Changes the signature by one character.
    fn forge(sent: &mut PreparedRequest)
    where
        Self: Sized;

    /// Deletes these objects, which are below the check's prefix, and nothing else. If an object could not be
    /// deleted, returns what to allow, as the rest of "to delete it, allow".
    fn clear_away<'a>(
        &'a self,
        folder: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>>;
}

/// A running conformance check and its result so far.
pub struct Checker<'a, H> {
    hands: &'a H,
    /// The prefix of this check, below the probe's object key.
    pub folder: String,
    /// The upload ID of the multipart upload that the check signs parts for.
    pub upload: Option<String>,
    written: BTreeSet<String>,
    /// The result of the checks so far.
    pub found: ConformanceReport,
}

impl<'a, H: Transport> Checker<'a, H> {
    /// Prepares a conformance check below this object key.
    pub fn new(hands: &'a H, probe_key: &str) -> Self {
        Self {
            hands,
            // The prefix is unique, because several operators may start the check at the same time.
            folder: format!(
                "{probe_key}/canary-{}-{}",
                Timestamp::now().as_nanosecond(),
                std::process::id()
            ),
            upload: None,
            written: BTreeSet::new(),
            found: ConformanceReport::default(),
        }
    }

    /// Ends the conformance check and deletes its objects.
    pub async fn end(mut self, result: Result<(), Unavailable>) -> ConformanceReport {
        if let Err(Unavailable(why)) = result {
            self.found.interrupted = true;
            self.found.untried.push(format!("the remaining checks: {why}"));
        }
        self.wrote(STRAY);
        let cleared = timeout(CLEARING_TIMEOUT, self.hands.clear_away(&self.folder, &self.written)).await;
        let folder = &self.folder;
        self.found.left = match cleared {
            Ok(None) => None,
            Ok(Some(remedy)) => Some(format!(
                "some objects below {folder} could not be deleted; allow {remedy} there, or delete them"
            )),
            Err(_) => Some(format!(
                "some objects below {folder} could not be deleted within {} s; delete them",
                CLEARING_TIMEOUT.as_secs()
            )),
        };
        self.found
    }

    /// Sends a valid request. Returns the status if the store refuses it.
    pub async fn good(&mut self, name: &str, ask: &Ask) -> Result<Result<(), u16>, Unavailable> {
        let status = self.try_out(name, ask, false, |_| {}).await?;
        Ok(if is_taken(status) { Ok(()) } else { Err(status) })
    }

    /// Checks constraints with a request that violates them. The store must refuse it.
    pub async fn holds(
        &mut self,
        ask: &Ask,
        name: &str,
        bend: Tamper,
        promises: &[Missing],
    ) -> Result<(), Unavailable> {
        if is_taken(self.try_out(name, ask, false, bend).await?) {
            self.found.missing.extend(promises);
        } else {
            self.found.held.extend(promises.iter().map(|promise| promise.name()));
        }
        Ok(())
    }

    /// Checks that a credential is limited to its expiry, signature, object key and method. The method is checked
    /// only if `other_verb` is set.
    pub async fn binds(
        &mut self,
        verb: &str,
        name: &str,
        ask: &Ask,
        other_verb: Option<Tamper>,
    ) -> Result<(), Unavailable> {
        let all: [(&str, bool, Option<Tamper>); 4] = [
            ("that has expired", true, Some(|_| {})),
            ("with a wrong signature", false, Some(H::forge)),
            ("for another object key", false, Some(PreparedRequest::stray)),
            ("for another method", false, other_verb),
        ];
        for (what, is_over, bend) in all {
            let Some(bend) = bend else { continue };
            let status = self.try_out(name, ask, is_over, bend).await?;
            // A 404 means that the store accepted the request and looked for the object.
            if is_taken(status) || status == 404 {
                let why = format!(
                    "the store accepts a credential for {verb} {what} (it answered {status}), so its credentials have no effective limits"
                );
                self.found.worthless.get_or_insert(why);
            }
        }
        self.found.held.push(match other_verb {
            Some(_) => format!("expiry, signature, object key and method of {verb}"),
            None => format!("expiry, signature and object key of {verb}"),
        });
        Ok(())
    }

    /// Checks that a POST form for a prefix is limited to the prefix. `is_expected`: whether the store is expected to
    /// enforce this without a check.
    pub async fn below(&mut self, ask: &Ask, is_expected: bool) -> Result<(), Unavailable> {
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

    /// Whether a POST form for a prefix is limited to the prefix. Uploads must be written below the prefix, and none
    /// outside it. GET must work, because it shows where an object was written. Returns the reason if the form is not
    /// limited.
    async fn keeps_below(&mut self, ask: &Ask) -> Result<Result<(), String>, Unavailable> {
        let inside = |name: &str| format!("in/{name}");
        // Whether the object key contains the file name depends on the store, so both object keys are deleted later.
        self.wrote(&inside(FILE));
        self.wrote(&inside(FILE_NAME));
        if let Err(status) = self.good(&inside(""), ask).await? {
            return Ok(Err(format!("the store answered {status} to a form for a key prefix")));
        }
        if !self.exists(&inside(FILE)).await? {
            return Ok(Err(format!(
                "the store does not replace {FILE_NAME} with the file name"
            )));
        }
        // These object keys are outside the prefix, so the store must refuse them.
        for key in ["in-2/x", "in", "IN/x"] {
            if is_taken(self.try_below(ask, key, FILE).await?) {
                return Ok(Err(format!("the store accepts object key {key} with a form for in/")));
            }
        }
        // These object keys begin with the prefix. A store for which '..' has no special meaning may accept them, but
        // must not write an object outside the prefix.
        for (n, key) in ["in/../{}", "in/%2e%2e/{}", "in/..%2f{}", "in/..\\{}"]
            .into_iter()
            .enumerate()
        {
            let escaped = format!("out-{n}");
            self.try_below(ask, &key.replace("{}", &escaped), FILE).await?;
            if self.exists(&escaped).await? {
                return Ok(Err(format!(
                    "with object key {} the store writes an object outside in/",
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
            return Ok(Err("with file name ../x the store writes an object outside in/".into()));
        }
        Ok(match is_taken(self.try_below(ask, "in/a/b", FILE).await?) {
            true => Ok(()),
            false => Err("the store refuses object key in/a/b with a form for in/".into()),
        })
    }

    /// Sends a form for the prefix `in/` with this object key and file name.
    async fn try_below(&mut self, ask: &Ask, key: &str, file: &str) -> Result<u16, Unavailable> {
        let key = format!("{}/{key}", self.folder);
        let mut sent = self.sent("in/", ask, false).await?;
        sent.set("key", &key);
        file.clone_into(&mut sent.file_name);
        let answer = self.hands.send(sent).await;
        // Some stores cannot delete an object key that they do not accept.
        if answer.as_ref().map_or(true, |status| is_taken(*status)) {
            self.written.insert(key);
        }
        answer
    }

    /// Whether a signed GET finds this object.
    pub async fn exists(&mut self, name: &str) -> Result<bool, Unavailable> {
        let is_there = is_taken(self.try_out(name, &get(), false, |_| {}).await?);
        if is_there {
            self.wrote(name);
        }
        Ok(is_there)
    }

    /// Signs a credential as for a grant, and sends one request with it. Returns the status.
    async fn try_out(&mut self, name: &str, ask: &Ask, is_over: bool, bend: Tamper) -> Result<u16, Unavailable> {
        let mut sent = self.sent(name, ask, is_over).await?;
        bend(&mut sent);
        // A changed request may also write the signed object, so the check deletes that object later.
        if sent.method != "GET" && !name.ends_with('/') {
            self.wrote(name);
        }
        self.hands.send(sent).await
    }

    /// Builds a valid request for this object, or for the prefix if the name ends with '/'.
    async fn sent(&self, name: &str, ask: &Ask, is_over: bool) -> Result<PreparedRequest, Unavailable> {
        let signed = self.hands.sign(&self.request(name, ask, is_over)?).await?;
        PreparedRequest::good(&signed).ok_or_else(|| Unavailable("the credential is not a single request".into()))
    }

    /// The signing request for this object.
    pub fn request(&self, name: &str, ask: &Ask, is_over: bool) -> Result<SigningRequest, Unavailable> {
        let key = format!("{}/{name}", self.folder);
        let ends = if is_over { -SECONDS } else { SECONDS };
        let expires_at = second(Timestamp::now()) + SignedDuration::from_secs(ends);
        Ok(SigningRequest {
            key: ObjectKey::parse_scope(&key, usize::MAX).map_err(|e| Unavailable(e.to_string()))?,
            ask: ask.clone(),
            lifetime: Lifetime {
                issued_at: expires_at - SignedDuration::from_secs(SECONDS),
                expires_at,
            },
            holder: "valet.canary".into(),
            upload: self.upload.clone(),
        })
    }

    /// Records that an object with this name may exist.
    pub fn wrote(&mut self, name: &str) {
        self.written.insert(format!("{}/{name}", self.folder));
    }
}

fn is_taken(status: u16) -> bool {
    status < 300
}

/// A download with a fixed content type.
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

/// A request that the check sends.
pub struct PreparedRequest {
    pub method: String,
    pub url: String,
    /// The headers that the credential requires.
    pub headers: Vec<(String, String)>,
    /// The fields of a form, in order.
    pub fields: Option<Vec<(String, String)>>,
    pub body: Vec<u8>,
    /// The file name of a form.
    pub file_name: String,
}

impl PreparedRequest {
    /// The valid request for a credential. `None` if the credential is not a single request.
    fn good(signed: &Signed) -> Option<Self> {
        let (method, url, headers, fields) = match &signed.credential {
            Credential::Request { url, method, headers } => (method.clone(), url, headers.clone(), None),
            Credential::Form { url, fields } => ("POST".to_owned(), url, Vec::new(), Some(fields.expose().to_vec())),
            Credential::Parts(parts) => match parts.as_slice() {
                [part] => ("PUT".to_owned(), &part.url, part.headers.clone(), None),
                _ => return None,
            },
            Credential::Credentials(_) => return None,
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

    /// Sets a header, or a field of a form.
    pub fn set(&mut self, name: &str, value: &str) {
        let list = self.fields.as_mut().unwrap_or(&mut self.headers);
        for (_, old) in list.iter_mut().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            value.clone_into(old);
        }
    }

    /// Changes the request to another object beside the signed one.
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

    /// The body of the request. A form has a multipart body, which is returned with its Content-Type header.
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

/// Changes the last character of a signature.
pub fn forge_last(signature: &mut String) {
    let last = signature.pop();
    signature.push(if last == Some('0') { '1' } else { '0' });
}
