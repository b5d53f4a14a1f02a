//! Object store providers. The rest of the crate does not know the provider of a store; [`registry`] selects it.

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
    conformance::ConformanceReport,
    core::{Access, AllowedRequest, ObjectFact, SignError, Signed},
};

/// A store that can sign credentials and return the state of objects.
///
/// Methods for a grant take an [`Access`] or a type made from one. It proves that the store's access rules allow the
/// grant. Probes and conformance checks use their own objects.
pub trait Provider: Send + Sync {
    /// The provider's name, in the entry `provider` of a Secret and in metrics.
    fn name(&self) -> &'static str;

    /// The constraints that the store can enforce.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// When the credentials that sign now expire. `None` if they do not expire. May fetch fresh credentials first.
    ///
    /// # Errors
    /// [`SignError`] if there are no credentials.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>>;

    /// When the store's configured credentials expire. This differs from [`Provider::credentials_expire`] if each
    /// grant is signed with its own session.
    ///
    /// # Errors
    /// [`SignError`] if there are no credentials.
    fn source_expiry(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        self.credentials_expire()
    }

    /// Whether the store's configured credentials are temporary with an unknown expiry. What they sign then has a
    /// short lifetime.
    fn expiry_is_unknown(&self) -> BoxFuture<'_, bool> {
        std::future::ready(false).boxed()
    }

    /// Whether [`Provider::sign`] sends requests, so that it can be slow.
    fn requires_remote_signing(&self) -> bool {
        false
    }

    /// Signs exactly this request, without sending requests unless [`Provider::requires_remote_signing`].
    ///
    /// # Errors
    /// [`SignError`] if the request cannot be signed. The provider never returns a credential that allows more than
    /// the request.
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Fetches fresh credentials if the current ones expire before this time and fresh ones may be valid longer.
    /// [`Provider::credentials_expire`] returns the result.
    fn prepare(&self, until: Timestamp) -> BoxFuture<'_, ()> {
        let _ = until;
        std::future::ready(()).boxed()
    }

    /// A salted fingerprint of the object's location, the endpoint and the long-lived credentials that sign. Session
    /// credentials are not part of it, because their expiry is known. If the fingerprint changes, issued credentials
    /// are signed again. It reveals no more than a signature does. `None` if the provider has no fingerprint.
    ///
    /// # Errors
    /// [`SignError`] if there are no credentials.
    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let _ = salt;
        std::future::ready(Ok(None)).boxed()
    }

    /// Probes the store with a few requests that take some seconds at most. Afterwards [`Provider::capabilities`]
    /// contains what the probe found.
    fn probe(&self) -> BoxFuture<'_, Probed>;

    /// Whether a probe must find out what the store does with unsigned headers before Valet signs uploads. It is not
    /// needed if each credential has its own session, if the owner tolerates unsigned headers, or if the store
    /// documents that it refuses them.
    fn requires_probe(&self) -> bool {
        false
    }

    /// Whether a probe must find out if the store supports write-once uploads.
    fn write_once_requires_probe(&self) -> bool {
        false
    }

    /// Runs the conformance check with about 40 requests, and deletes what it wrote. Afterwards
    /// [`Provider::capabilities`] no longer contains what the store does not enforce.
    fn canary(&self) -> BoxFuture<'_, ConformanceReport> {
        let untried = vec![format!(
            "everything: Valet has no conformance check for this kind of store ({})",
            self.name()
        )];
        Box::pin(std::future::ready(ConformanceReport {
            untried,
            ..ConformanceReport::default()
        }))
    }

    /// Sets capabilities that another process found, by their names in `status.capabilities`. It is used only for
    /// capabilities that a conformance check must confirm.
    fn seed_capabilities(&self, capabilities: &[String]) {
        let _ = capabilities;
    }

    /// How far the store's clock is ahead of the operator's, according to its last answer. `None` if no answer
    /// contained a time.
    fn skew(&self) -> Option<SignedDuration> {
        None
    }

    /// Reads the state of the object with one request that takes some seconds at most.
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact>;

    /// The operations of multipart uploads. `None` if the store does not support them.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whether the store can be used with these settings and credentials.
    pub finding: Finding,
    /// How far the store's clock is ahead of the operator's, if the difference is relevant.
    pub skew: Option<SignedDuration>,
    /// Whether the store refuses unsigned headers. `None` if this is not known.
    pub refuses_unsigned: Option<bool>,
    /// Why `refuses_unsigned` is not known, as a clause.
    pub untold: Option<String>,
    /// What users need to know before they create grants for this store, each as a clause.
    pub remarks: Vec<String>,
}

impl Probed {
    /// A result with only a finding.
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
    /// The probe found no problem.
    Usable,
    /// The settings or credentials must be changed before any credential of the store works. The message contains no
    /// secrets.
    Broken(Reason, String),
    /// The store does not answer. The message contains no secrets.
    Unreachable(String),
}
