use jiff::Timestamp;

use crate::api::ObservedObject;

/// A multipart upload that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The store's ID of the upload.
    pub id: String,
    /// The time at which the upload was initiated, by the store's clock.
    pub initiated: Option<Timestamp>,
    /// True if the upload has at least one part.
    pub has_parts: bool,
}

/// A part that a client has uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedPart {
    /// The part number. The first part has number 1.
    pub number: i64,
    /// The size of the part in bytes.
    pub size: i64,
    /// The ETag of the part. The request that completes the upload contains this ETag.
    pub e_tag: String,
}

/// A request to complete a multipart upload. The store assembles the object from the listed parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// The store's ID of the multipart upload.
    pub upload: String,
    /// All parts of the object, in the order of their part numbers.
    pub parts: Vec<ArrivedPart>,
    /// True if the store must not replace an existing object.
    pub write_once: bool,
}

/// The result of a request that completes a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The store has completed the upload. The value is the store's description of the object.
    Done(ObservedObject),
    /// An object with this object key exists, and the upload is write-once. An earlier request to complete this
    /// upload may have written the object.
    Exists,
    /// The store does not know the upload. Either an earlier attempt completed it, or somebody aborted it.
    Gone,
    /// The store refuses to complete the upload. The message contains no secrets.
    Refused(String),
    /// The store did not answer or had an internal error. The store may have completed the upload anyway.
    Unreachable(String),
}
