//! Interprets the answers to a probe's requests, with the same rules for all providers. The provider sends the
//! requests.
//!
//! Valet must not issue a credential because of an answer that can have another cause. So each unsigned header is
//! tested with two requests that differ only in this header. The result counts only if the store accepts the request
//! without the header, before and after.

use futures::future::BoxFuture;

/// Why the operator sends only read requests, as the beginning of a sentence.
pub const ONLY_READ: &str = "the operator sends only read requests to an endpoint that an ObjectStore names, unless the platform team starts it with --tenant-store-requests=All";

/// An MD5 that matches no body of a probe.
pub const OTHER_MD5: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// A variant of the signed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The signed request without changes, for comparison.
    Plain,
    /// The request with an unsigned header that asks to copy an object that does not exist.
    Copying,
    /// The request with an unsigned header that sets user metadata.
    Marked,
}

/// The signed request that the variants are based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// An upload with the MD5 of other bytes. A store that checks the MD5 writes nothing.
    BrokenUpload,
    /// An upload that the store can accept.
    Upload,
    Download,
}

/// A store's answer to a request of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    /// The error code in the answer, or an empty text.
    pub code: String,
}

impl Said {
    /// Whether the store did what the request asked for.
    pub fn is_done(&self) -> bool {
        self.status < 300
    }

    fn is_refused(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }

    /// Whether the store accepted signature and permissions. Then the request succeeded, or failed with an error that
    /// the store reports only after authorization.
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

/// What the store does with unsigned headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsignedHeaders {
    /// The store refuses the request, or ignores the header.
    Refused,
    /// The store treats the header as part of the request.
    Obeyed,
    /// The answers give no result. The text says why, as a clause for the store's owner.
    Unknown(String),
}

/// Sends the requests of a probe.
pub trait Sender: Sync {
    /// Why there was no answer.
    type Error: Send;

    /// Sends one request, without a retry.
    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<Said, Self::Error>>;
}

/// Finds out what the store does with unsigned headers of an upload. If the credentials may not upload, it uses a
/// download.
///
/// # Errors
/// Returns an error if the store did not answer.
pub async fn by_upload<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    for base in [Base::BrokenUpload, Base::Upload] {
        let control = sender.send(base, Variant::Plain).await?;
        if !control.is_accepted(base) {
            return Ok(match by_download(sender).await? {
                UnsignedHeaders::Unknown(why) => UnsignedHeaders::Unknown(format!(
                    "the store answered {} to an upload to the probe's object without an unsigned header, and {why}",
                    told(&control)
                )),
                shown => shown,
            });
        }
        let copying = sender.send(base, Variant::Copying).await?;
        // The store looked for the copy source.
        if copying.status == 404 {
            return Ok(UnsignedHeaders::Obeyed);
        }
        if copying.is_done() {
            // The store ignored the copy source and stored the body of the request.
            return Ok(UnsignedHeaders::Refused);
        }
        if copying != control {
            return refused(sender, base, &control, &copying).await;
        }
        // It is not known which of the two errors the store checks first. The next request contains only the unsigned
        // header.
    }
    Ok(UnsignedHeaders::Unknown(
        "the store gave the same answer with and without an unsigned header".into(),
    ))
}

/// Finds out what the store does with unsigned headers, with downloads only. Stores check signatures in the same way
/// for all methods, so the result also holds for uploads.
///
/// # Errors
/// Returns an error if the store did not answer.
pub async fn by_download<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    let base = Base::Download;
    let control = sender.send(base, Variant::Plain).await?;
    if !control.is_accepted(base) {
        return Ok(UnsignedHeaders::Unknown(format!(
            "the store answered {} to a download of the probe's object without an unsigned header",
            told(&control)
        )));
    }
    let marked = sender.send(base, Variant::Marked).await?;
    if marked.is_accepted(base) {
        return Ok(UnsignedHeaders::Obeyed);
    }
    refused(sender, base, &control, &marked).await
}

/// Whether a request was refused because of its unsigned header. Two different headers must be refused, because one
/// of them can be refused for what it asks. The request without them must still be accepted.
async fn refused<S: Sender>(
    sender: &S,
    base: Base,
    control: &Said,
    first: &Said,
) -> Result<UnsignedHeaders, S::Error> {
    let unclear = |said: &Said| {
        UnsignedHeaders::Unknown(format!(
            "the store's answer to an unsigned header can have another cause ({})",
            told(said)
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

/// An answer as text for a message.
fn told(said: &Said) -> String {
    format!("{} {}", said.status, said.code).trim_end().to_owned()
}

/// Whether the store supports write-once uploads, according to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOnce {
    /// The store refused a second upload because of the first.
    Enforced,
    /// The store does not support write-once uploads, or replaces the object. The text says why, as a clause.
    Missing(String),
    /// The answers give no result. The text says why, as a clause.
    Unknown(String),
}

/// Interprets the answers to a write-once upload that was sent several times.
pub fn write_once(answers: &[Said]) -> WriteOnce {
    let Some(last) = answers.last() else {
        return WriteOnce::Unknown("no write-once upload was sent".into());
    };
    match (last.status, answers.len()) {
        // The store refused because of an object of an earlier request.
        (412, _) => WriteOnce::Enforced,
        (501 | 405, _) => WriteOnce::Missing(format!("the store answers {} to a write-once upload", told(last))),
        (400, _) => WriteOnce::Missing(format!("the store refuses a write-once upload ({})", told(last))),
        (200..=299, 3..) => WriteOnce::Missing("the store replaces an existing object in a write-once upload".into()),
        _ => WriteOnce::Unknown(format!(
            "the store answered {} to a write-once upload below the probe's object key",
            told(last)
        )),
    }
}

/// What users need to know about write-once uploads before they create grants for the store, as a clause.
pub fn remark(found: &Option<WriteOnce>) -> Option<String> {
    match found {
        Some(WriteOnce::Missing(why)) => Some(format!(
            "the store has no WriteOnce ({why}), so upload grants need spec.constraints.overwrite: Allow"
        )),
        Some(WriteOnce::Unknown(why)) => Some(format!(
            "it is not known whether the store has WriteOnce ({why}); until then upload grants need spec.constraints.overwrite: Allow"
        )),
        Some(WriteOnce::Enforced) | None => None,
    }
}

#[cfg(test)]
mod tests;
