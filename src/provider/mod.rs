//! Providers for object stores. Other modules use a store only through the [`Provider`] trait. The module
//! [`registry`] selects the provider of a store.

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

pub use multipart::Multipart;

use crate::{
    api::{Capabilities, Reason},
    conformance::ConformanceReport,
    core::{Access, AllowedRequest, ObjectFact, SignError, Signed},
};

/// An object store that can sign credentials and return the state of objects.
///
/// Methods that act for a grant take an [`Access`] or a type that was made from an [`Access`]. Such a value proves
/// that the store's access rules allow the grant. Probes and conformance checks need no grant, because they use
/// their own objects.
pub trait Provider: Send + Sync {
    /// Returns the provider's name. The name appears in the entry `provider` of a grant Secret and in metrics.
    fn name(&self) -> &'static str;

    /// Returns the constraints that the store can enforce.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// Returns the time when the credentials that sign now expire, or `None` if they do not expire. The method can
    /// fetch fresh credentials first.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>>;

    /// Returns the time when the store's configured credentials expire. It differs from
    /// [`Provider::credentials_expire`] if Valet signs each grant with a session of its own.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn source_expiry(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        self.credentials_expire()
    }

    /// Returns true if the store's configured credentials are temporary and their expiry is unknown. Valet then
    /// signs only credentials with a short lifetime.
    fn expiry_is_unknown(&self) -> BoxFuture<'_, bool> {
        std::future::ready(false).boxed()
    }

    /// Returns true if [`Provider::sign`] sends requests and can therefore be slow.
    fn requires_remote_signing(&self) -> bool {
        false
    }

    /// Signs exactly this request. The method sends requests only if [`Provider::requires_remote_signing`] returns
    /// true.
    ///
    /// # Errors
    /// Returns [`SignError`] if the request cannot be signed. The provider never returns a credential that allows
    /// more than the request.
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Fetches fresh credentials if the current ones expire before `until` and fresh ones can have a longer
    /// lifetime. Afterwards, [`Provider::credentials_expire`] returns the new expiry.
    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        let _ = until;
        std::future::ready(()).boxed()
    }

    /// Returns a salted fingerprint of the object's location, the endpoint and the long-lived credentials that sign.
    /// When the fingerprint changes, Valet signs all issued credentials again.
    ///
    /// The fingerprint does not depend on session credentials, because Valet knows their expiry. It reveals no more
    /// than a signature does. The result is `None` if the provider has no fingerprint.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let _ = salt;
        std::future::ready(Ok(None)).boxed()
    }

    /// Probes the store with a few requests, which take at most some seconds. Afterwards, [`Provider::capabilities`]
    /// takes the result of the probe into account.
    fn probe(&self) -> BoxFuture<'_, Probed>;

    /// Returns true if a probe must find out what the store does with unsigned headers before Valet signs uploads.
    /// No probe is needed if each credential has its own session, or if the owner tolerates unsigned headers. It is
    /// also not needed if the vendor documents that the store refuses unsigned headers.
    fn requires_probe(&self) -> bool {
        false
    }

    /// Returns true if a probe must find out whether the store supports write-once uploads.
    fn write_once_requires_probe(&self) -> bool {
        false
    }

    /// Runs the conformance check with about 40 requests, and deletes the objects that the check wrote. Afterwards,
    /// [`Provider::capabilities`] no longer contains a capability that the store failed to enforce.
    fn canary(&self) -> BoxFuture<'_, ConformanceReport> {
        let untried = vec![format!(
            "Valet has no conformance check for stores of provider {provider}",
            provider = self.name()
        )];
        Box::pin(std::future::ready(ConformanceReport {
            untried,
            ..ConformanceReport::default()
        }))
    }

    /// Sets capabilities that another process found, by their names in `status.capabilities`. Only capabilities that
    /// need a conformance check are set.
    fn seed_capabilities(&self, capabilities: &[String]) {
        let _ = capabilities;
    }

    /// Returns how far the store's clock is ahead of the operator's clock, according to the store's last answer.
    /// Returns `None` if no answer contained a time.
    fn skew(&self) -> Option<SignedDuration> {
        None
    }

    /// Reads the state of the object with one request, which takes at most some seconds.
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact>;

    /// Returns the operations for multipart uploads, or `None` if the store does not support multipart uploads.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The result says if the store can be used with these settings and credentials.
    pub finding: Finding,
    /// How far the store's clock is ahead of the operator's clock. It is `None` if the difference is too small to
    /// matter.
    pub skew: Option<SignedDuration>,
    /// This is true if the store refuses unsigned headers. It is `None` if the probe could not find out.
    pub refuses_unsigned: Option<bool>,
    /// The reason why `refuses_unsigned` is `None`, as a clause.
    pub untold: Option<String>,
    /// Facts about the store that users need to know before they create grants. Each fact is a clause.
    pub remarks: Vec<String>,
}

impl Probed {
    /// Creates a result that contains only this finding.
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

/// The finding of a probe: it says if the store can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The probe found no problem with the store.
    Usable,
    /// No credential of the store works until somebody changes the settings or the store's credentials. The message
    /// contains no secrets.
    Broken(Reason, String),
    /// The store does not answer. The message contains no secrets.
    Unreachable(String),
}

/// Converts the reason why the probe's own requests could not be signed.
impl From<SignError> for Finding {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Credentials {
                reason: Reason::StoreUnreachable,
                message,
            } => Self::Unreachable(message),
            SignError::Credentials { reason, message } => Self::Broken(reason, message),
            other => Self::Unreachable(other.to_string()),
        }
    }
}
