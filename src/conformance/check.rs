//! Runs the conformance check of a store. The check writes and reads objects under the prefix of the store's probe
//! key.
//!
//! The check signs credentials in the same way as Valet signs them for a grant. For each constraint, it sends one
//! request that violates the constraint, and the store must refuse this request. At the end, the check deletes its
//! objects.

use std::{collections::BTreeSet, time::Duration};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{ConformanceReport, Missing};
use crate::{
    api::{Capability, DownloadMode, OperationSpec, ResponseHeaders},
    core::{Credential, Lifetime, ObjectKey, SignError, Signed, SigningRequest, second},
};

/// The body of valid uploads in the conformance check.
pub const BODY: &[u8] = b"valet check 1\n";
pub const BODY_MD5: &str = "IJIOSw8+M/byiejyj7KQIw==";
/// This body has the length of [`BODY`] but different bytes. It violates a checksum constraint.
pub const OTHER: &[u8] = b"valet check 2\n";
/// A body that is one byte longer than [`BODY`]. It violates a size constraint.
pub const LONGER: &[u8] = b"valet check 10\n";
/// The content type of valid uploads in the conformance check.
pub const TYPE: &str = "text/plain";
/// This content type differs from [`TYPE`]. It violates a content type constraint.
pub const OTHER_TYPE: &str = "text/html";
/// The lifetime of a credential in the conformance check, in seconds. To test the expiry, the check uses a credential
/// that expired 120 seconds ago. A store must refuse this credential unless its clock is at least 120 seconds behind.
/// The condition `ClockInSync` reports a clock skew long before it reaches 120 seconds.
const SECONDS: i64 = 120;
/// The file name in the POST forms of the conformance check.
const FILE: &str = "check";
/// A placeholder in the object key of a form. Stores replace it with the name of the uploaded file.
const FILE_NAME: &str = "${filename}";
/// The name of an object that the signed credential does not allow. A tampered request names this object instead of
/// the signed one.
const OUTSIDE_PREFIX: &str = "stray";

/// The timeout of the conformance check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(40);
/// The timeout for the deletion of the objects that the conformance check wrote.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a conformance check with a timeout.
pub async fn in_time<T>(checker: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    timeout(CHECK_TIMEOUT, checker).await.unwrap_or_else(|_| {
        let seconds = CHECK_TIMEOUT.as_secs();
        Err(Unavailable(format!(
            "the store is too slow; the conformance check did not finish within {seconds} s"
        )))
    })
}

/// The error if the conformance check stopped because the store does not answer. The text gives the reason and
/// contains no secrets.
pub struct Unavailable(pub String);

impl From<SignError> for Unavailable {
    fn from(error: SignError) -> Self {
        Self(match error {
            SignError::Credentials { message, .. } => message,
            e => e.to_string(),
        })
    }
}

/// A function that changes a valid request. The changed request violates its credential, so the store must refuse it.
pub type Tamper = fn(&mut PreparedRequest);

/// The operations that a provider implements for the conformance check.
pub trait Transport: Sync {
    /// Signs a credential for the operator's endpoint.
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Sends a request once and without changes. Returns the status of the answer.
    fn send(&self, sign_and_send: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>>;

    /// Makes the signature invalid by changing one character.
    fn forge(sign_and_send: &mut PreparedRequest)
    where
        Self: Sized;

    /// Deletes the objects in `written` and no further objects. All of them have the prefix of the conformance check.
    /// If the method could not delete an object, it returns the missing permission. In the report, this text follows
    /// the word "allow".
    fn delete_test_objects<'a>(
        &'a self,
        folder: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>>;
}

/// A running conformance check, and its result so far.
pub struct Checker<'a, H> {
    hands: &'a H,
    /// The prefix of all objects that this conformance check writes. It begins with the store's probe key.
    pub folder: String,
    /// The upload ID of the check's multipart upload. The check signs the URLs of its parts.
    pub upload: Option<String>,
    written: BTreeSet<String>,
    pub found: ConformanceReport,
}

impl<'a, H: Transport> Checker<'a, H> {
    /// Prepares a conformance check with objects under the prefix `probe_key`.
    pub fn new(hands: &'a H, probe_key: &str) -> Self {
        Self {
            hands,
            // Each check uses a unique prefix, because several operators can check one store at the same time.
            folder: format!(
                "{probe_key}/check-{}-{}",
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
            self.found
                .not_tested
                .push(format!("the conformance check stopped before it was complete: {why}"));
        }
        self.wrote(OUTSIDE_PREFIX);
        let cleared = timeout(
            CLEANUP_TIMEOUT,
            self.hands.delete_test_objects(&self.folder, &self.written),
        )
        .await;
        let folder = &self.folder;
        self.found.left = match cleared {
            Ok(None) => None,
            Ok(Some(remedy)) => Some(format!(
                "some objects of the conformance check under prefix {folder}/ could not be deleted; delete these objects, and allow {remedy} for the next check"
            )),
            Err(_) => Some(format!(
                "some objects of the conformance check under prefix {folder}/ could not be deleted within {seconds} s; delete these objects",
                seconds = CLEANUP_TIMEOUT.as_secs()
            )),
        };
        self.found
    }

    /// Sends a valid request. If the store refuses the request, the method returns the status of the store's answer.
    pub async fn accepts(
        &mut self,
        name: &str,
        operation_spec: &OperationSpec,
    ) -> Result<Result<(), u16>, Unavailable> {
        let status = self.send_request(name, operation_spec, false, |_| {}).await?;
        Ok(if is_taken(status) { Ok(()) } else { Err(status) })
    }

    /// Sends a request that violates the constraints in `promises`. If the store refuses the request, the constraints
    /// count as enforced.
    pub async fn enforces(
        &mut self,
        operation_spec: &OperationSpec,
        name: &str,
        tamper: Tamper,
        promises: &[Missing],
    ) -> Result<(), Unavailable> {
        if is_taken(self.send_request(name, operation_spec, false, tamper).await?) {
            self.found.missing.extend(promises);
        } else {
            self.found
                .enforced
                .extend(promises.iter().map(|promise| promise.name()));
        }
        Ok(())
    }

    /// Checks that the store enforces the expiry, the signature and the object key of a credential. If `other_verb`
    /// is set, the method also checks that the store enforces the HTTP method.
    pub async fn must_enforce(
        &mut self,
        verb: &str,
        name: &str,
        operation_spec: &OperationSpec,
        other_verb: Option<Tamper>,
    ) -> Result<(), Unavailable> {
        let all: [(&str, bool, Option<Tamper>); 4] = [
            ("after the credential has expired", true, Some(|_| {})),
            ("with a wrong signature", false, Some(H::forge)),
            ("for an unsigned object key", false, Some(PreparedRequest::outside)),
            ("with an unsigned method", false, other_verb),
        ];
        for (what, is_over, tamper) in all {
            let Some(tamper) = tamper else { continue };
            let status = self.send_request(name, operation_spec, is_over, tamper).await?;
            // The status 404 also means that the store accepted the request, because the store searched for the
            // object.
            if is_taken(status) || status == 404 {
                let why = format!(
                    "the store accepts a {verb} request {what}, and answers with status {status}; credentials for this store do not limit access"
                );
                self.found.unenforced.get_or_insert(why);
            }
        }
        self.found.enforced.push(match other_verb {
            Some(_) => format!("expiry, signature, object key and method of signed {verb} requests"),
            None => format!("expiry, signature and object key of signed {verb} requests"),
        });
        Ok(())
    }

    /// Checks that the holder of a POST form for a prefix cannot write outside this prefix. If `is_expected` is true
    /// and the store does not enforce this limit, the capability counts as missing.
    pub async fn check_prefix(
        &mut self,
        operation_spec: &OperationSpec,
        is_expected: bool,
    ) -> Result<(), Unavailable> {
        let promise = Missing::Form(Capability::KeyPrefix);
        match self.enforces_prefix(operation_spec).await? {
            Ok(()) => self.found.enforced.push(promise.name()),
            Err(why) => {
                self.found.without.push(format!("{} ({why})", promise.name()));
                if is_expected {
                    self.found.missing.push(promise);
                }
            }
        }
        Ok(())
    }

    /// Checks that the holder of a POST form for a prefix cannot write outside this prefix. The store must write all
    /// uploads under the prefix. If it writes an object outside the prefix, the method returns the reason.
    ///
    /// The check needs a working GET request, because GET shows where the store wrote an object.
    async fn enforces_prefix(&mut self, operation_spec: &OperationSpec) -> Result<Result<(), String>, Unavailable> {
        let inside = |name: &str| format!("in/{name}");
        // If the store replaces `${filename}`, the object has the name of the file. Otherwise the object key contains
        // the text `${filename}` unchanged. The check later deletes the objects with both keys.
        self.wrote(&inside(FILE));
        self.wrote(&inside(FILE_NAME));
        if let Err(status) = self.accepts(&inside(""), operation_spec).await? {
            return Ok(Err(format!(
                "the store answered status {status} to a POST form for prefix 'in/'"
            )));
        }
        if !self.exists(&inside(FILE)).await? {
            return Ok(Err(format!(
                "for a POST form, the store does not replace {FILE_NAME} with the name of the uploaded file"
            )));
        }
        // These object keys do not have the prefix `in/`, so the store must refuse them.
        for key in ["in-2/x", "in", "IN/x"] {
            if is_taken(self.upload_below(operation_spec, key, FILE).await?) {
                return Ok(Err(format!(
                    "the store accepts object key '{key}' in a POST form that allows only prefix 'in/'"
                )));
            }
        }
        // These object keys begin with the prefix. The store can accept them if `..` has no special meaning in the
        // store. The store must never write an object outside the prefix.
        for (n, key) in ["in/../{}", "in/%2e%2e/{}", "in/..%2f{}", "in/..\\{}"]
            .into_iter()
            .enumerate()
        {
            let escaped = format!("out-{n}");
            self.upload_below(operation_spec, &key.replace("{}", &escaped), FILE)
                .await?;
            if self.exists(&escaped).await? {
                return Ok(Err(format!(
                    "a POST form for prefix 'in/' writes an object outside this prefix if the form has object key '{key}'",
                    key = key.replace("{}", "x")
                )));
            }
        }
        let escaped = "out-by-file";
        let file = format!("../{escaped}");
        if is_taken(self.upload_below(operation_spec, &inside(FILE_NAME), &file).await?) {
            for name in [file.as_str(), escaped] {
                self.wrote(&inside(name));
            }
        }
        if self.exists(escaped).await? {
            return Ok(Err(
                "a POST form for prefix 'in/' writes an object outside this prefix if the form has file name '../x'"
                    .into(),
            ));
        }
        Ok(
            match is_taken(self.upload_below(operation_spec, "in/a/b", FILE).await?) {
                true => Ok(()),
                false => Err("the store refuses object key 'in/a/b' in a POST form for prefix 'in/'".into()),
            },
        )
    }

    /// Sends a POST form for the prefix `in/`. The form has this object key and this file name.
    async fn upload_below(
        &mut self,
        operation_spec: &OperationSpec,
        key: &str,
        file: &str,
    ) -> Result<u16, Unavailable> {
        let key = format!("{}/{key}", self.folder);
        let mut sign_and_send = self.sign_and_send("in/", operation_spec, false).await?;
        sign_and_send.set("key", &key);
        file.clone_into(&mut sign_and_send.file_name);
        let answer = self.hands.send(sign_and_send).await;
        // The check records only object keys that the store accepted, because some stores cannot delete an invalid
        // object key.
        if answer.as_ref().map_or(true, |status| is_taken(*status)) {
            self.written.insert(key);
        }
        answer
    }

    /// Returns true if a signed GET request finds this object.
    pub async fn exists(&mut self, name: &str) -> Result<bool, Unavailable> {
        let is_there = is_taken(self.send_request(name, &get(), false, |_| {}).await?);
        if is_there {
            self.wrote(name);
        }
        Ok(is_there)
    }

    /// Signs a credential in the same way as for a grant, and sends one request with it. Returns the status of the
    /// store's answer.
    async fn send_request(
        &mut self,
        name: &str,
        operation_spec: &OperationSpec,
        is_over: bool,
        tamper: Tamper,
    ) -> Result<u16, Unavailable> {
        let mut sign_and_send = self.sign_and_send(name, operation_spec, is_over).await?;
        tamper(&mut sign_and_send);
        // The store can write the signed object even if the request was tampered with. Therefore the check later
        // deletes the signed object.
        if sign_and_send.method != "GET" && !name.ends_with('/') {
            self.wrote(name);
        }
        self.hands.send(sign_and_send).await
    }

    /// Builds a valid request for this object. If the name ends with `/`, the request is for a prefix.
    async fn sign_and_send(
        &self,
        name: &str,
        operation_spec: &OperationSpec,
        is_over: bool,
    ) -> Result<PreparedRequest, Unavailable> {
        let signed = self.hands.sign(&self.request(name, operation_spec, is_over)?).await?;
        PreparedRequest::accepts(&signed).ok_or_else(|| {
            Unavailable("the conformance check needs a credential for a single request, but the provider signed another kind of credential".into())
        })
    }

    /// Returns the request to sign a credential for this object.
    pub fn request(
        &self,
        name: &str,
        operation_spec: &OperationSpec,
        is_over: bool,
    ) -> Result<SigningRequest, Unavailable> {
        let key = format!("{}/{name}", self.folder);
        let ends = if is_over { -SECONDS } else { SECONDS };
        let expires_at = second(Timestamp::now()) + SignedDuration::from_secs(ends);
        Ok(SigningRequest {
            key: ObjectKey::parse_scope(&key, usize::MAX).map_err(|e| Unavailable(e.to_string()))?,
            operation_spec: operation_spec.clone(),
            lifetime: Lifetime {
                issued_at: expires_at - SignedDuration::from_secs(SECONDS),
                expires_at,
            },
            holder: "valet.check".into(),
            upload: self.upload.clone(),
        })
    }

    /// Records that the check has possibly written an object with this name. At the end, the check deletes the
    /// object.
    pub fn wrote(&mut self, name: &str) {
        self.written.insert(format!("{}/{name}", self.folder));
    }
}

fn is_taken(status: u16) -> bool {
    status < 300
}

/// Returns the spec of a download whose response has a fixed content type.
pub fn get() -> OperationSpec {
    OperationSpec::Download {
        mode: DownloadMode::Url,
        version: None,
        response: ResponseHeaders {
            content_type: Some(TYPE.into()),
            ..ResponseHeaders::default()
        },
    }
}

/// A request that the conformance check sends.
pub struct PreparedRequest {
    pub method: String,
    pub url: String,
    /// The client must send these headers, because the credential requires them.
    pub headers: Vec<(String, String)>,
    /// The fields of a POST form, in order. The value is `None` if the request is not a POST form.
    pub fields: Option<Vec<(String, String)>>,
    pub body: Vec<u8>,
    /// The file name of a POST form.
    pub file_name: String,
}

impl PreparedRequest {
    /// Builds the valid request for a credential. Returns `None` if the credential allows more than a single request.
    pub fn accepts(signed: &Signed) -> Option<Self> {
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

    /// Sets a header of the request. For a POST form, the method sets a form field instead.
    pub fn set(&mut self, name: &str, value: &str) {
        let list = self.fields.as_mut().unwrap_or(&mut self.headers);
        for (_, old) in list.iter_mut().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            value.clone_into(old);
        }
    }

    /// Changes the request so that it names an object that the credential does not allow.
    pub fn outside(&mut self) {
        fn sibling(path: &str) -> String {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{OUTSIDE_PREFIX}")
        }
        match &mut self.fields {
            Some(fields) => fields
                .iter_mut()
                .filter(|(name, _)| name == "key")
                .for_each(|(_, key)| *key = sibling(key)),
            None => {
                let (path, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
                self.url = format!("{}?{query}", sibling(path));
            }
        }
    }

    /// Returns the body of the request. The body of a POST form is multipart, so the method also returns its
    /// Content-Type header.
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

/// Makes a signature invalid by changing its last character.
pub fn forge_last(signature: &mut String) {
    let last = signature.pop();
    signature.push(if last == Some('0') { '1' } else { '0' });
}
