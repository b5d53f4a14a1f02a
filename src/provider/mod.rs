//! Providers for object stores. The rest of Valet uses a store only through the [`Provider`] trait. The module
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
/// A method that acts for a grant takes an [`Access`], or a type that is made from an [`Access`]. Such a value proves
/// that the access rules of the store allow the grant. Probes and conformance checks need no grant, because they use
/// only their own objects.
pub trait Provider: Send + Sync {
    /// Returns the provider's name. The name appears in the entry `provider` of a grant Secret and in metrics.
    fn name(&self) -> &'static str;

    /// Returns the constraints that the store can enforce.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// Returns the time when the credentials that Valet signs with expire, or `None` if they do not expire. The
    /// method can fetch fresh credentials first.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>>;

    /// Returns the time when the store's configured credentials expire. If Valet signs each grant with a separate
    /// session, [`Provider::credentials_expire`] returns a different time.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn source_expiry(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        self.credentials_expire()
    }

    /// Returns true if the store's configured credentials are temporary and Valet does not know their expiry. In this
    /// case, Valet signs only credentials with a short lifetime.
    fn expiry_is_unknown(&self) -> BoxFuture<'_, bool> {
        std::future::ready(false).boxed()
    }

    /// Returns true if [`Provider::sign`] sends requests and can therefore be slow.
    fn requires_remote_signing(&self) -> bool {
        false
    }

    /// Signs exactly this request. The method sends network requests only if [`Provider::requires_remote_signing`]
    /// returns true.
    ///
    /// # Errors
    /// Returns [`SignError`] if the provider cannot sign the request. The provider never returns a credential that
    /// allows more than the request.
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Fetches fresh credentials if the current ones expire before `until`. The method does nothing if fresh
    /// credentials could not have a longer lifetime. Afterwards, [`Provider::credentials_expire`] returns the new
    /// expiry.
    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        let _ = until;
        std::future::ready(()).boxed()
    }

    /// Returns a salted fingerprint of three things: the location of the objects, the endpoint, and the long-lived
    /// credentials that sign. When the fingerprint changes, Valet signs all issued credentials again.
    ///
    /// The fingerprint does not depend on session credentials, because Valet knows their expiry. An attacker cannot
    /// learn more from the fingerprint than from a signature. The method returns `None` if the provider has no
    /// fingerprint.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let _ = salt;
        std::future::ready(Ok(None)).boxed()
    }

    /// Probes the store with a few requests, which take at most some seconds. Afterwards, the result of
    /// [`Provider::capabilities`] also depends on this probe.
    fn probe(&self) -> BoxFuture<'_, Probed>;

    /// Returns true if Valet must not sign uploads until a probe has found out what the store does with unsigned
    /// headers.
    ///
    /// The method returns false in three cases:
    /// - Each credential has a session of its own.
    /// - The owner of the store tolerates unsigned headers.
    /// - The vendor documents that the store refuses unsigned headers.
    fn requires_probe(&self) -> bool {
        false
    }

    /// Returns true if only a probe can show whether the store supports write-once uploads.
    fn write_once_requires_probe(&self) -> bool {
        false
    }

    /// Runs the conformance check with about 40 requests, and deletes the objects that the check wrote. Afterwards,
    /// [`Provider::capabilities`] does not list a capability that the store did not enforce in the check.
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

    /// Sets the capabilities that another process of Valet found. `capabilities` contains their names from
    /// `status.capabilities`. The method sets only capabilities that need a conformance check.
    fn seed_capabilities(&self, capabilities: &[String]) {
        let _ = capabilities;
    }

    /// Returns how far the store's clock is ahead of the operator's clock. The value comes from the store's last
    /// answer with a time. Returns `None` if no answer contained a time.
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
    /// The finding says whether Valet can use the store with its settings and credentials.
    pub finding: Finding,
    /// The value says how far the store's clock is ahead of the operator's clock. It is `None` if the difference is
    /// too small to matter.
    pub skew: Option<SignedDuration>,
    /// This is true if the store refuses unsigned headers. It is `None` if the probe could not find out.
    pub refuses_unsigned: Option<bool>,
    /// If `refuses_unsigned` is `None`, this text gives the reason as a clause.
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

/// The finding of a probe: it says whether Valet can use the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The probe found no problem with the store.
    Usable,
    /// The store's settings or its credentials are wrong. No grant of the store gets a working credential until
    /// somebody changes them. The message contains no secrets.
    Broken(Reason, String),
    /// The store does not answer. The message contains no secrets.
    Unreachable(String),
}

/// Converts the error of a probe that could not sign its own requests into the finding of this probe.
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
