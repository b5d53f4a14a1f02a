use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    facts::ArrivedPart,
    key::ObjectKey,
    lifetime::Lifetime,
    places::Most,
    policy::{AbortAccess, Access, AllowedRequest},
};
use crate::api::{Ask, GrantStatus, Reason};

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read what is missing and ask again.
    Read(Read),
    /// Sign, write the Secret, and ask again.
    Publish(Box<Publish>),
    /// Bring the Secret's labels, annotations and owner up to date, leave its key as it is, and ask again.
    Retouch {
        /// The Secret that was judged.
        uid: String,
        /// And the version of it.
        resource_version: String,
        /// The labels that it shall have.
        labels: BTreeMap<String, String>,
        /// The annotations that it shall have.
        annotations: BTreeMap<String, String>,
        /// Whether somebody else has changed what was right.
        is_repair: bool,
    },
    /// Remove the data of a Secret that will be held by finalizers after its deletion, and ask again.
    Empty {
        /// The Secret that was judged.
        uid: String,
        /// And the version of it.
        resource_version: String,
    },
    /// Delete the Secret, and ask again.
    Withdraw {
        /// The Secret that was judged.
        uid: String,
        /// And the version of it.
        resource_version: String,
    },
    /// Write the status, tell whom it concerns, and ask again.
    Report {
        /// The whole of it.
        status: Box<GrantStatus>,
        /// An event for a person, if one must act.
        notice: Option<Notice>,
    },
    /// Give the grant the finalizer of uploads in parts, and ask again.
    Hold,
    /// Have the store put the parts together, and ask again.
    Complete(Access, Assembly),
    /// Have the store abort the multipart upload that the grant's Secret or status names, and ask again.
    Abort(AbortAccess),
    /// Have the store abort these multipart uploads of the grant's key, which no Secret was ever written for, and ask
    /// again.
    AbortOrphans(Vec<AbortAccess>),
    /// Take the finalizer off again, tell whom it concerns, and ask again.
    Release {
        /// An event for a person, if something is left over.
        notice: Option<Notice>,
    },
    /// Delete the grant itself: it has finished and its time is over.
    Collect,
    /// Nothing to do before this instant, or before something changes.
    Rest {
        /// When to ask again.
        until: Option<Timestamp>,
    },
}

/// What a decision needs to know first. What is asked of the store comes with the proof that its rules allow it.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// The store that the grant names, with its rules and its credentials' end.
    Store,
    /// The Secret of the wanted name: its metadata.
    Secret,
    /// Whether the object is in the store. What was known of an upload in parts that goes on is not known any more then:
    /// it may have become the object meanwhile.
    Object(Access),
    /// Whether there is room for one more grant with a key, at most so many having one. The room is then kept for this
    /// grant until its visit has ended.
    Place(Most),
    /// Which parts of this upload are in the store. If it is gone, what was known of the object is not known any more.
    Upload(Access, String),
    /// Which uploads in parts of the wanted key go on.
    Uploads(Access),
}

/// Parts to put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// The store's name for the upload.
    pub upload: String,
    /// All parts of the object, in order.
    pub parts: Vec<ArrivedPart>,
    /// Whether an object that is there already must stay as it is.
    pub write_once: bool,
}

/// A key to sign and the Secret to put it into.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Create or replace.
    pub mode: PublishMode,
    /// What to sign.
    pub request: AllowedRequest,
    /// The Secret's labels.
    pub labels: BTreeMap<String, String>,
    /// The Secret's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether this is the credential that was there before somebody else has deleted or changed it.
    pub is_repair: bool,
}

/// How the Secret is to be written. Never an upsert: two operators, or two tries, must not both win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// There is none: POST.
    Create,
    /// Replace this one: PUT with its resourceVersion.
    Replace {
        /// The Secret that was judged.
        uid: String,
        /// And the version of it.
        resource_version: String,
    },
}

/// What a signer is asked for. It says everything that the key permits; the URL is not known here. What is signed for a
/// grant comes as an [`AllowedRequest`]; checks of a store make their own requests, for objects of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRequest {
    /// The object.
    pub key: ObjectKey,
    /// The operation, with all its constraints.
    pub ask: Ask,
    /// From when to when; whole seconds.
    pub lifetime: Lifetime,
    /// Who it is for, where a provider keeps record of that: the grant's namespace and name, with a dot between.
    pub holder: String,
    /// Of an upload in parts: the store's name for it, if it has begun.
    pub upload: Option<String>,
}

/// An event for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// From the one list.
    pub reason: Reason,
    /// What happened and what to do.
    pub message: String,
}
