//! The abilities of a provider. Each ability is a trait. A provider implements each trait in a separate file.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};

use super::probed::Probed;
use crate::{
    api::Capabilities,
    conformance::ConformanceReport,
    core::{
        AbortAccess, Access, AllowedRequest, Assembly, Completion, ObjectFact, SignError, Signed, UploadFact,
        UploadsFact,
    },
};

/// An object store with all its abilities. The rest of Valet uses a store only through this trait.
///
/// A method that acts for a grant takes an [`Access`], or a type that is made from an [`Access`]. Such a value proves
/// that the access rules of the store allow the grant. Probes and conformance checks need no grant, because they use
/// only their own objects.
pub trait Provider: Signer + ObjectReader + Prober {
    /// Returns the provider's name. The name appears in the entry `provider` of a grant Secret and in metrics.
    fn name(&self) -> &'static str;

    /// Returns the constraints that the store can enforce.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// Returns the operations for multipart uploads, or `None` if the store does not support multipart uploads.
    fn multipart(&self) -> Option<&dyn Multipart> {
        None
    }
}

/// Signs credentials for grants.
pub trait Signer: Send + Sync {
    /// Signs a credential that allows exactly what `request` asks for. The method sends network requests only if
    /// [`Signer::requires_remote_signing`] returns true.
    ///
    /// # Errors
    /// Returns [`SignError`] if the provider cannot sign exactly this credential. The provider never returns a
    /// credential that allows more.
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>>;

    /// Returns true if [`Signer::sign`] sends requests and can therefore be slow.
    fn requires_remote_signing(&self) -> bool {
        false
    }

    /// Returns the time when the credentials that Valet signs with expire, or `None` if they do not expire. The
    /// method can fetch fresh credentials first.
    ///
    /// # Errors
    /// Returns [`SignError`] if there are no credentials.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>>;

    /// Returns the time when the store's configured credentials expire. If Valet signs each grant with separate
    /// temporary credentials, [`Signer::credentials_expire`] returns a different time: the expiry of these temporary
    /// credentials.
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

    /// Fetches fresh credentials if the current credentials expire before `until`. [`Signer::credentials_expire`] then
    /// returns the expiry of the fresh credentials. The method does nothing if fresh credentials could not have a
    /// longer lifetime.
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
}

/// Reads the state of objects.
pub trait ObjectReader: Send + Sync {
    /// Reads the state of the object with one request, which takes at most some seconds.
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact>;
}

/// Finds out what the store enforces.
pub trait Prober: Send + Sync {
    /// Probes the store with a few requests, which take at most some seconds. Afterwards, the result of
    /// [`Provider::capabilities`] also depends on this probe.
    fn probe(&self) -> BoxFuture<'_, Probed>;

    /// Returns true if Valet must not sign uploads until a probe has found out what the store does with unsigned
    /// headers.
    ///
    /// The method returns false in three cases:
    /// - Valet signs each credential with separate temporary credentials from STS.
    /// - The owner of the store tolerates unsigned headers.
    /// - The vendor documents that the store refuses unsigned headers.
    fn requires_probe(&self) -> bool {
        false
    }

    /// Returns true if only a probe can show whether the store supports write-once uploads.
    fn write_once_requires_probe(&self) -> bool {
        false
    }

    /// Runs the conformance check with about 40 requests, and deletes the objects that the check wrote. If the check
    /// shows that the store does not enforce a capability, [`Provider::capabilities`] no longer lists this capability.
    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport>;

    /// Takes over results of a conformance check that another process of Valet ran. `capabilities` is the list from
    /// `status.capabilities`. From this list, the method uses only capabilities that Valet never assumes without a
    /// conformance check.
    fn seed_capabilities(&self, capabilities: &[String]) {
        let _ = capabilities;
    }

    /// Returns how far the store's clock is ahead of the operator's clock. The value comes from the last answer of the
    /// store that contained a time. Returns `None` if no answer has contained a time.
    fn skew(&self) -> Option<SignedDuration> {
        None
    }
}

/// The requests that the operator itself sends for multipart uploads. The operator initiates and completes a multipart
/// upload. The workload uploads the parts with signed URLs.
///
/// Each method takes at most some seconds, except [`Multipart::complete`].
pub trait Multipart: Send + Sync {
    /// Initiates a multipart upload and returns its upload ID. The request sets the content type of the object.
    ///
    /// # Errors
    /// Returns [`SignError`] if the store did not initiate the upload.
    fn initiate<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>>;

    /// Lists the parts that the workload has uploaded.
    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact>;

    /// Completes the multipart upload. Some stores need minutes for this request.
    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion>;

    /// Aborts the multipart upload and deletes its parts. The method also succeeds if the upload no longer exists.
    ///
    /// # Errors
    /// Returns the reason why the multipart upload can still exist in the store. The text contains no secrets.
    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>>;

    /// Lists the open multipart uploads of exactly this object key. The list does not show which client initiated an
    /// upload.
    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact>;
}
