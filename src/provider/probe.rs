//! What the answers to a probe's requests show. Nothing here sends anything: a provider sends, and the rules are the same for
//! all of them.
//!
//! A verdict that makes a credential possible is drawn only from an answer that cannot have another cause. So each header is
//! tried with a pair of requests that differ in that header alone, and the pair counts only if the request without the header
//! was accepted, before and after.

use futures::future::BoxFuture;

/// That the platform team has not consented to more, as the beginning of a sentence.
pub const ONLY_READ: &str = "to an endpoint that an ObjectStore names the operator sends only requests that change nothing, unless the platform team starts it with --tenant-store-requests=All";

/// The MD5 of other bytes than any probe sends.
pub const OTHER_MD5: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// Which request of a pair is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The signed request as it is: the control.
    Plain,
    /// The same with an unsigned header that asks to copy an object that does not exist.
    Copying,
    /// The same with an unsigned header that asks for nothing in particular: user metadata.
    Marked,
}

/// The signed request that the variants are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// An upload whose digest is that of other bytes, so that a store which checks digests stores nothing.
    BrokenUpload,
    /// An upload that can be stored.
    Upload,
    /// A download.
    Download,
}

/// How a store answered a request of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The HTTP status.
    pub status: u16,
    /// The code of the error, or nothing.
    pub code: String,
}

impl Said {
    /// Whether the store did what it was asked.
    pub fn is_done(&self) -> bool {
        self.status < 300
    }

    fn is_refused(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }

    /// Whether the store took the signature and the rights for good: it did what it was asked, or found something wrong
    /// that it only looks for afterwards.
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

/// What the store does with headers that are not part of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsignedHeaders {
    /// It refuses the request, or passes over the header.
    Refused,
    /// It takes them for part of the request.
    Obeyed,
    /// The answers do not tell. Why, as a clause for the store's owner.
    Unknown(String),
}

/// Sends the requests of a probe.
pub trait Sender: Sync {
    /// Why there was no answer.
    type Error: Send;

    /// Sends one request, once.
    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<Said, Self::Error>>;
}

/// Finds out what the store does with unsigned headers of an upload; where the credentials may not upload, of a download.
///
/// # Errors
/// If there was no answer.
pub async fn by_upload<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    for base in [Base::BrokenUpload, Base::Upload] {
        let control = sender.send(base, Variant::Plain).await?;
        if !control.is_accepted(base) {
            return Ok(match by_download(sender).await? {
                UnsignedHeaders::Unknown(why) => UnsignedHeaders::Unknown(format!(
                    "the store answered {} to an upload at the key of the probe without such a header, and {why}",
                    told(&control)
                )),
                shown => shown,
            });
        }
        let copying = sender.send(base, Variant::Copying).await?;
        // It looked for the object that is to be copied.
        if copying.status == 404 {
            return Ok(UnsignedHeaders::Obeyed);
        }
        if copying.is_done() {
            // There was nothing to copy, so it stored the body of the request.
            return Ok(UnsignedHeaders::Refused);
        }
        if copying != control {
            return refused(sender, base, &control, &copying).await;
        }
        // Which of the two it looks at first is not known: once more, with nothing wrong but the header.
    }
    Ok(UnsignedHeaders::Unknown(
        "the store answered the same with such a header and without".into(),
    ))
}

/// The same by requests that change nothing. Stores check signatures in one way for all methods, so what they do with a download
/// they do with an upload.
///
/// # Errors
/// If there was no answer.
pub async fn by_download<S: Sender>(sender: &S) -> Result<UnsignedHeaders, S::Error> {
    let base = Base::Download;
    let control = sender.send(base, Variant::Plain).await?;
    if !control.is_accepted(base) {
        return Ok(UnsignedHeaders::Unknown(format!(
            "the store answered {} to a download at the key of the probe without such a header",
            told(&control)
        )));
    }
    let marked = sender.send(base, Variant::Marked).await?;
    if marked.is_accepted(base) {
        return Ok(UnsignedHeaders::Obeyed);
    }
    refused(sender, base, &control, &marked).await
}

/// Whether a request was refused for its unsigned header. Two such headers must be refused, since one of them can be refused for
/// what it asks for, and the request must still be accepted without them.
async fn refused<S: Sender>(
    sender: &S,
    base: Base,
    control: &Said,
    first: &Said,
) -> Result<UnsignedHeaders, S::Error> {
    let unclear = |said: &Said| {
        UnsignedHeaders::Unknown(format!(
            "the store's answer to such a header can have another cause ({})",
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

/// An answer in a message.
fn told(said: &Said) -> String {
    format!("{} {}", said.status, said.code).trim_end().to_owned()
}

/// What the store does with a write-once upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOnce {
    /// A second upload was refused because of the first.
    Enforced,
    /// The store does not know such uploads, or replaces objects all the same. Why, as a clause.
    Missing(String),
    /// The answers do not tell. Why, as a clause.
    Unknown(String),
}

/// What the answers to the same write-once upload, sent again and again, show.
pub fn write_once(answers: &[Said]) -> WriteOnce {
    let Some(last) = answers.last() else {
        return WriteOnce::Unknown("no write-once upload was sent".into());
    };
    match (last.status, answers.len()) {
        // The object of an earlier request, or of this one's predecessor.
        (412, _) => WriteOnce::Enforced,
        (501 | 405, _) => WriteOnce::Missing(format!("it answers {} to a write-once upload", told(last))),
        (400, _) => WriteOnce::Missing(format!("it refuses a write-once upload ({})", told(last))),
        (200..=299, 3..) => WriteOnce::Missing("it replaces the object of a write-once upload".into()),
        _ => WriteOnce::Unknown(format!(
            "the store answered {} to a write-once upload below the key of the probe",
            told(last)
        )),
    }
}

/// What a person must know of it who makes grants for the store, as a clause.
pub fn remark(found: &Option<WriteOnce>) -> Option<String> {
    match found {
        Some(WriteOnce::Missing(why)) => Some(format!(
            "it has no WriteOnce ({why}): upload grants need spec.constraints.overwrite: Allow"
        )),
        Some(WriteOnce::Unknown(why)) => Some(format!(
            "whether it has WriteOnce is not known ({why}): until then upload grants need spec.constraints.overwrite: Allow"
        )),
        Some(WriteOnce::Enforced) | None => None,
    }
}

#[cfg(test)]
mod tests;
