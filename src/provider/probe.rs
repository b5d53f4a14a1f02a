//! Interprets a store's answers to the requests of a probe. All providers use these rules, but each provider sends
//! the requests itself.
//!
//! A wrong result could make Valet issue an unsafe credential. Therefore Valet ignores an answer that can have more
//! than one cause.
//!
//! Valet tests each unsigned header with two requests: one with the header and one without it. The result counts only
//! if the store accepts the request without the header, both before and after the test.

use futures::future::BoxFuture;

/// The message for a store to which the operator sends only read requests. Callers can append more text to this
/// message.
pub const ONLY_READ: &str = "the operator sends only read requests to the endpoint of an ObjectStore; the platform team can allow write requests with --tenant-store-requests=All";

/// A wrong MD5 in base64. This MD5 does not match the body of any probe request.
pub const OTHER_MD5: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// The variants of a signed probe request. The variants differ only in their unsigned header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The signed request without an unsigned header. Valet compares the store's answer to this request with the
    /// answers to requests that have an unsigned header.
    Plain,
    /// The signed request with an unsigned header that asks the store to copy an object. This object does not exist.
    Copying,
    /// The signed request with an unsigned header that sets user metadata.
    Marked,
}

/// The signed request of a probe, before a variant adds an unsigned header to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// An upload with a wrong MD5. A store that checks the MD5 writes nothing.
    BrokenUpload,
    /// An upload that the store can accept and store.
    Upload,
    Download,
}

/// A store's answer to a probe request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    pub status: u16,
    /// The error code in the answer. It is empty if the answer contains no error code.
    pub code: String,
}

impl ProbeAnswer {
    /// Returns true if the store carried out the request.
    pub fn is_done(&self) -> bool {
        self.status < 300
    }

    fn is_refused(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }

    /// Returns true if the store accepted the signature and the permissions of the request. This is the case if the
    /// request succeeded. It is also the case if the store returned an error that it returns only after authorization.
    fn is_accepted(&self, base: Base) -> bool {
        match base {
            Base::Upload => self.is_done(),
            Base::BrokenUpload => {
                self.is_done()
                    || self.status == 400
                        && matches!(self.code.as_str(), "BadDigest" | "InvalidDigest" | "Md5Mismatch")
            }
            Base::Download => {
                self.is_done()
                    || self.status == 404 && matches!(self.code.as_str(), "NoSuchKey" | "BlobNotFound")
                    || self.status == 416
            }
        }
    }
}

/// The result of the probe for unsigned headers. The result says what the store does with these headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsignedHeaders {
    /// The store refuses a request with an unsigned header, or it ignores this header.
    Refused,
    /// The store does what the unsigned header asks for.
    Obeyed,
    /// The answers do not show what the store does with unsigned headers. The string contains the reason, as a part of
    /// a condition message.
    Unknown(String),
}

/// Sends the requests of a probe. Each provider implements this trait.
pub trait Sender: Sync {
    /// The reason why the store did not answer.
    type Error: Send;

    /// Sends one request, without a retry.
    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<ProbeAnswer, Self::Error>>;
}

/// Finds out what the store does with an unsigned header in an upload. If the credentials do not allow uploads, the
/// function tests with downloads instead.
///
/// # Errors
/// Returns an error if the store did not answer.
pub async fn by_upload<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    for base in [Base::BrokenUpload, Base::Upload] {
        let control = sender.send(base, Variant::Plain).await?;
        if !control.is_accepted(base) {
            return Ok(match by_download(sender).await? {
                UnsignedHeaders::Unknown(why) => UnsignedHeaders::Unknown(format!(
                    "the store answered status {status} to a probe upload with only signed headers; {why}",
                    status = status_text(&control)
                )),
                shown => shown,
            });
        }
        let copying = sender.send(base, Variant::Copying).await?;
        // The status 404 shows that the store obeyed the unsigned header: the store searched for the object to copy and
        // did not find this object.
        if copying.status == 404 {
            return Ok(UnsignedHeaders::Obeyed);
        }
        if copying.is_done() {
            // The store ignored the unsigned header: the store wrote the body of the request and copied nothing.
            return Ok(UnsignedHeaders::Refused);
        }
        if copying != control {
            return refused(sender, base, &control, &copying).await;
        }
        // The store refused this request because of the wrong MD5 or because of the unsigned header. The answer does
        // not show which of the two is the cause. The next request has a correct MD5, so only the unsigned header can
        // cause a refusal.
    }
    Ok(UnsignedHeaders::Unknown(
        "the store gave the same answer to probe requests with and without an unsigned header".into(),
    ))
}

/// Finds out what the store does with unsigned headers. The function sends only download requests. A store checks the
/// signatures of uploads and downloads in the same way, so the result is also valid for uploads.
///
/// # Errors
/// Returns an error if the store did not answer.
pub async fn by_download<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    let base = Base::Download;
    let control = sender.send(base, Variant::Plain).await?;
    if !control.is_accepted(base) {
        return Ok(UnsignedHeaders::Unknown(format!(
            "the store answered status {status} to a probe download with only signed headers",
            status = status_text(&control)
        )));
    }
    let marked = sender.send(base, Variant::Marked).await?;
    if marked.is_accepted(base) {
        return Ok(UnsignedHeaders::Obeyed);
    }
    refused(sender, base, &control, &marked).await
}

/// Finds out whether the store refuses requests because they have an unsigned header.
///
/// The function returns [`UnsignedHeaders::Refused`] only if the store refuses two requests with an unsigned header and
/// then accepts the request without an unsigned header. The two refused requests have different unsigned headers,
/// because a store can also refuse a header for a different reason: the store does not allow what the header asks for.
async fn refused<S: Sender>(
    sender: &S,
    base: Base,
    control: &ProbeAnswer,
    first: &ProbeAnswer,
) -> Result<UnsignedHeaders, S::Error> {
    let unclear = |answer: &ProbeAnswer| {
        UnsignedHeaders::Unknown(format!(
            "the store answered status {status} to a probe request, but unsigned headers are possibly not the cause of this answer",
            status = status_text(answer)
        ))
    };
    if !first.is_refused() {
        return Ok(unclear(first));
    }
    let second = sender.send(base, Variant::Marked).await?;
    if !second.is_refused() || second == *control {
        return Ok(unclear(&second));
    }
    let again = sender.send(base, Variant::Plain).await?;
    if !again.is_accepted(base) {
        return Ok(unclear(&again));
    }
    Ok(UnsignedHeaders::Refused)
}

/// Returns a store's answer as text for a message.
fn status_text(answer: &ProbeAnswer) -> String {
    format!("{} {}", answer.status, answer.code).trim_end().to_owned()
}

/// The result of the probe for write-once uploads. The result says whether the store supports these uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOnce {
    /// The store supports write-once uploads: the store refused an upload because the object existed.
    Enforced,
    /// The store refuses write-once uploads, or a write-once upload replaced an existing object. The string describes
    /// the store's answer, as a part of a condition message.
    Missing(String),
    /// The answers do not show whether the store supports write-once uploads. The string contains the reason, as a part
    /// of a condition message.
    Unknown(String),
}

/// Returns whether the store supports write-once uploads. The probe sends the same write-once upload several times. The
/// argument `answers` contains the store's answers.
pub fn write_once(answers: &[ProbeAnswer]) -> WriteOnce {
    let Some(last) = answers.last() else {
        return WriteOnce::Unknown("no write-once upload was sent".into());
    };
    match (last.status, answers.len()) {
        // The status 412 means that the store refused the upload because the object existed. An earlier upload of
        // this probe had written the object.
        (412, _) => WriteOnce::Enforced,
        (501 | 405 | 400, _) => WriteOnce::Missing(format!(
            "the store answers status {status} to a write-once upload",
            status = status_text(last)
        )),
        (200..=299, 3..) => WriteOnce::Missing("a write-once upload replaced an existing object in the store".into()),
        _ => WriteOnce::Unknown(format!(
            "the store answered status {status} to a write-once upload of the probe",
            status = status_text(last)
        )),
    }
}

/// Returns what users must know about write-once uploads before they create grants for the store. The returned string
/// is a part of a condition message.
pub fn notice(found: &Option<WriteOnce>) -> Option<String> {
    match found {
        Some(WriteOnce::Missing(why)) => Some(format!(
            "upload grants must set spec.constraints.overwrite: Allow, because the store does not support write-once uploads: {why}"
        )),
        Some(WriteOnce::Unknown(why)) => Some(format!(
            "upload grants must set spec.constraints.overwrite: Allow until a probe shows that the store supports write-once uploads: {why}"
        )),
        Some(WriteOnce::Enforced) | None => None,
    }
}

#[cfg(test)]
mod tests;
