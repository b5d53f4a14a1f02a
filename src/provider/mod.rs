//! Object store back ends. The rest of the crate does not know which provider a store has; [`registry`] selects it.

pub mod azure;
mod clock;
pub mod gcs;
mod identity;
mod multipart;
pub(crate) mod probe;
pub mod registry;
pub mod s3;

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};

pub use multipart::{Completion, Multipart};

use crate::{
    api::{Capabilities, Reason},
    conformance::Canary,
    core::{Access, AllowedRequest, ObjectFact, SignError, Signed},
};

/// One store that can be asked to sign and to look.
///
/// What concerns a grant takes an [`Access`], or what is made from one: the proof that the store's rules allow that grant.
/// Probes and checks of the store itself use objects of their own.
pub trait Provider: Send + Sync {
    /// The provider's name in a Secret's `provider` entry and in metrics.
    fn name(&self) -> &'static str;

    /// What its keys can enforce.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// When the credentials that would sign now end; `None` if they have no end of their own. May fetch fresh
    /// ones first.
    ///
    /// # Errors
    /// [`SignError`] if there are none.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>>;

    /// The same of the credentials that the store was given, where keys have others of their own.
    ///
    /// # Errors
    /// [`SignError`] if there are none.
    fn source_expires(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        self.credentials_expire()
    }

    /// Whether the credentials that the store was given are temporary, and nothing says when they end. What they sign then lives
    /// for a short time only.
    fn end_is_unknown(&self) -> BoxFuture<'_, bool> {
        std::future::ready(false).boxed()
    }

    /// Whether [`Provider::sign`] makes requests of its own, so that a slow far side makes it slow.
    fn signs_remotely(&self) -> bool {
        false
    }

    /// Signs exactly what is asked, locally unless [`Provider::signs_remotely`].
    ///
    /// # Errors
    /// [`SignError`]; never a key that permits more than the request says.
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Sees to it, as far as possible, that the credentials that sign last until then: fetches fresh ones, if those may
    /// last longer. What came of it, [`Provider::credentials_expire`] says.
    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        let _ = until;
        std::future::ready(()).boxed()
    }

    /// A fingerprint of what signs, salted: where the object is, by which address, and with which credentials, if those
    /// last (sessions come and go, and their end is known). Once it differs, keys that are out are signed anew. It
    /// tells nobody more than a signature does. `None`: the provider does not tell.
    ///
    /// # Errors
    /// [`SignError`] if there are no credentials.
    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let _ = salt;
        std::future::ready(Ok(None)).boxed()
    }

    /// Tries out what the store is like, with a few requests of at most some seconds. What it finds of the store's
    /// enforcement is from then on in [`Provider::capabilities`].
    fn probe(&self) -> BoxFuture<'_, Probed>;

    /// Whether it has to be seen what the store does with headers that are not signed, for its keys for uploads to be as
    /// narrow as they look. Not where each key is confined in itself, where the owner puts up with it, or where the store
    /// is one of which it is documented.
    fn rests_on_trial(&self) -> bool {
        false
    }

    /// The same of write-once uploads.
    fn write_once_rests_on_trial(&self) -> bool {
        false
    }

    /// Tries out with real keys what the store enforces: some three dozen requests, which leave nothing behind. What it finds
    /// missing is from then on missing in [`Provider::capabilities`], too.
    fn canary(&self) -> BoxFuture<'_, Canary> {
        let untried = vec![format!(
            "all of it: Valet cannot do that with a store of this kind ({})",
            self.name()
        )];
        Box::pin(std::future::ready(Canary {
            untried,
            ..Canary::default()
        }))
    }

    /// What somebody else found the store to enforce, by the names in `status.capabilities`. It is believed of what can only
    /// be tried.
    fn recall(&self, capabilities: &[String]) {
        let _ = capabilities;
    }

    /// How far the store's clock is ahead of the operator's, by its last answer; `None` if it never said the time.
    fn skew(&self) -> Option<SignedDuration> {
        None
    }

    /// Looks whether the object is in the store, with one request of at most some seconds.
    fn look<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact>;

    /// What it can do for uploads in parts; `None` if it takes none.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

/// What a store turned out to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whether it can be used with these settings and credentials.
    pub finding: Finding,
    /// How far the store's clock is ahead of ours, if that is worth a word.
    pub skew: Option<SignedDuration>,
    /// Whether it refuses headers that are not part of a signature; `None` if that is not known.
    pub refuses_unsigned: Option<bool>,
    /// Why that is not known, as a clause.
    pub untold: Option<String>,
    /// What else was found that whoever makes grants must know, each a clause.
    pub remarks: Vec<String>,
}

impl Probed {
    /// Nothing is known but this.
    pub fn of(finding: Finding) -> Self {
        Self {
            finding,
            skew: None,
            refuses_unsigned: None,
            untold: None,
            remarks: Vec::new(),
        }
    }
}

/// Whether a store can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing is wrong, as far as these credentials can see.
    Usable,
    /// Something must be changed before any key of it works. No secrets in the message.
    Broken(Reason, String),
    /// It does not answer. No secrets in the message.
    Unreachable(String),
}
