//! The pen: turns a signing request into a signed URL. One small trait, one file a provider; nothing outside a
//! provider's file knows which provider a store has.

mod outward;
pub mod s3;
mod secret;
mod url;

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use thiserror::Error;

pub use outward::{Inward, Outward};
pub use secret::secret_object;
pub use url::{Entries, Form, SignedUrl};

use crate::{
    api::{Capabilities, Reason},
    grant::{ObjectFact, ObjectKey, SigningRequest},
};

/// One store that can be asked to sign and to look.
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

    /// Whether [`Provider::sign`] makes requests of its own, so that a slow far side makes it slow.
    fn signs_remotely(&self) -> bool {
        false
    }

    /// Signs exactly what is asked, locally unless [`Provider::signs_remotely`].
    ///
    /// # Errors
    /// [`SignError`]; never a key that permits more than the request says.
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Lends temporary credentials that can do exactly what is asked: `request.ask` is
    /// [for credentials](crate::api::Ask::is_for_credentials).
    ///
    /// # Errors
    /// [`SignError`]; never credentials that permit more than the request says. A provider that lends none has no such
    /// [`Capabilities::credentials`] either, and is not asked.
    fn lend<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Lent, SignError>> {
        let _ = request;
        std::future::ready(Err(SignError::Refused("this provider lends no credentials".into()))).boxed()
    }

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

    /// Looks whether the object is in the store, with one request of at most some seconds.
    fn look<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, ObjectFact>;
}

/// The data of the Secret for a key: signed, or lent, as the request asks.
///
/// # Errors
/// The provider's.
pub async fn key_data(
    provider: &dyn Provider,
    request: &SigningRequest,
) -> Result<BTreeMap<String, ByteString>, SignError> {
    if request.ask.is_for_credentials() {
        let lent = provider.lend(request).await?;
        return Ok(secret::lent_data(&lent, request.lifetime));
    }
    let signed = provider.sign(request).await?;
    Ok(secret::signed_data(&signed, request.lifetime))
}

/// What a store turned out to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whether it can be used with these settings and credentials.
    pub finding: Finding,
    /// How far the store's clock is ahead of ours, if that is worth a word.
    pub skew: Option<SignedDuration>,
    /// Whether it refuses headers that are not part of a signature; `None` if that could not be tried.
    pub refuses_unsigned: Option<bool>,
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

/// What a workload is handed: everything about the request but the bytes.
#[derive(Debug)]
pub struct Signed {
    /// Where.
    pub url: SignedUrl,
    /// The HTTP method.
    pub method: String,
    /// Headers that are part of the signature: to be sent to the letter.
    pub headers: Vec<(String, String)>,
    /// Of a POST form: its fields, to be sent in this order and before the file.
    pub form: Option<Form>,
    /// The provider's name.
    pub provider: &'static str,
}

/// Temporary credentials that a workload is handed.
#[derive(Debug)]
pub struct Lent {
    /// Entries of the Secret's data, by name: the credentials, and what clients need besides.
    pub entries: Entries,
    /// The provider's name.
    pub provider: &'static str,
}

/// Why nothing was signed. Messages carry no URL and no credential.
#[derive(Clone, Debug, Error)]
pub enum SignError {
    /// No usable credentials.
    #[error("{message}")]
    Credentials {
        /// From the one list.
        reason: Reason,
        /// For the store's owner.
        message: String,
    },
    /// This store can never sign this, whatever the credentials: for the tenant.
    #[error("{0}")]
    Impossible(String),
    /// The request cannot be expressed as a signed URL of this provider.
    #[error("the signer refused: {0}")]
    Refused(String),
}
