//! Implements the reads and writes of a reconcile for `valet sign`, which has no cluster. The grant and its store
//! come from files, no grant Secret exists, and the state of the object is unknown. The reconcile ends when Valet has
//! signed the Secret or refused the grant.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;

use crate::{
    api::{ConditionType, GrantStatus, Operation},
    core::{
        AbortAccess, Access, AllowedRequest, Assembly, Completion, GrantEvent, GrantFacts, ObjectFact, PublishMode,
        QuotaFact, QuotaLimits, Repairs, SecretView, SignError, Signed, StoreFact, StoreView, UploadFact,
        UploadsFact,
    },
    provider::Provider,
    reconcile::{Effects, Error, InitiatedUpload, StoreReading},
};

/// The message for a grant with mode `Multipart`, if the user passed no upload ID.
const ONLY_OPERATOR: &str = "only the operator initiates and completes multipart uploads; apply the grant in a cluster, or initiate the multipart upload yourself and set --upload-id";

/// Holds the store that a reconcile for `valet sign` uses, and the result of the reconcile. The store comes from the
/// user's files.
pub(super) struct FileEffects {
    pub(super) store: StoreFact,
    pub(super) provider: Arc<dyn Provider>,
    /// This is true if Valet knows whether the store rejects or obeys unsigned headers.
    pub(super) is_tried: bool,
    /// The grant's `spec.expirationSeconds` and `spec.deadlineTime`.
    pub(super) requested: (i64, Option<Timestamp>),
    /// The result: the signed Secret, or the reason why the grant is refused.
    pub(super) result: Option<Result<Secret, String>>,
}

impl FileEffects {
    fn end<T>(&mut self, result: Result<Secret, String>) -> Result<T, Error> {
        self.result = Some(result);
        Err(Error::Stopped)
    }

    /// Prints a note on standard error if the credential expires earlier than the user requested.
    async fn print_expiry(&self, request: &AllowedRequest) {
        let lifetime = request.lifetime;
        let (seconds, deadline) = self.requested;
        if !lifetime.is_truncated(seconds, deadline) {
            return;
        }
        let why = if self.provider.expiry_is_unknown().await {
            "the store's credentials are temporary and their expiry time is unknown; set AWS_CREDENTIAL_EXPIRATION to the expiry time"
        } else {
            "the store's credentials expire at this time, or the store's access rules do not allow a longer lifetime"
        };
        eprintln!(
            "valet: note: the credential expires at {end}, earlier than requested: {why}",
            end = lifetime.expires_at
        );
    }
}

impl Effects for FileEffects {
    fn take_permit(&mut self, _: &GrantFacts) -> Result<(), Error> {
        Ok(())
    }

    fn return_permit(&mut self) {}

    async fn read_store(&mut self, _: &GrantFacts, _: Timestamp) -> Result<StoreReading, Error> {
        Ok(StoreReading {
            fact: self.store.clone(),
            rules: None,
        })
    }

    async fn read_secret(&mut self, _: &GrantFacts) -> Result<Option<SecretView>, Error> {
        Ok(None)
    }

    async fn read_grant(&mut self, grant: &GrantFacts) -> Result<GrantFacts, Error> {
        Ok(grant.clone())
    }

    /// `valet sign` does not know the live grants of the cluster, so it does not check the quota.
    async fn reserve_quota(&mut self, _: &GrantFacts, _: QuotaLimits, _: &StoreFact) -> QuotaFact {
        QuotaFact::Given
    }

    async fn read_object(&mut self, _: &Access) -> ObjectFact {
        ObjectFact::Hidden
    }

    async fn read_upload(&mut self, _: &Access, _: &str) -> UploadFact {
        UploadFact::Open(Vec::new())
    }

    async fn read_uploads(&mut self, _: &Access) -> UploadsFact {
        UploadsFact::Hidden
    }

    fn is_contested(&self, _: &GrantFacts) -> bool {
        false
    }

    fn skew(&self) -> Option<SignedDuration> {
        None
    }

    fn has_newer_grant(&self, _: &GrantFacts) -> Result<bool, Error> {
        Ok(false)
    }

    async fn is_current_store(&mut self, _: &GrantFacts, _: &StoreView) -> Result<bool, Error> {
        Ok(true)
    }

    fn signs_with_requests(&self) -> bool {
        false
    }

    async fn initiate_upload(&mut self, _: &AllowedRequest) -> Result<String, SignError> {
        Err(SignError::Impossible(ONLY_OPERATOR.into()))
    }

    async fn sign(&mut self, request: &AllowedRequest) -> Result<Signed, SignError> {
        if !self.is_tried && request.operation_spec.operation() == Operation::Upload {
            eprintln!(
                "valet: note: valet sign did not test whether the store obeys unsigned headers; the operator tests this before it signs an upload"
            );
        }
        self.print_expiry(request).await;
        self.provider.sign(request).await
    }

    async fn complete_upload(&mut self, _: &Access, _: &Assembly) -> Completion {
        Completion::Unreachable(ONLY_OPERATOR.into())
    }

    async fn abort_upload(&mut self, _: &AbortAccess) -> Result<(), String> {
        Ok(())
    }

    async fn write_secret(
        &mut self,
        grant: &GrantFacts,
        _: &PublishMode,
        mut secret: Secret,
    ) -> Result<SecretView, Error> {
        if grant.uid.is_empty() {
            // A grant from a file has no UID, so it cannot be the owner of the Secret.
            secret.metadata.owner_references = None;
        }
        self.end(Ok(secret))
    }

    async fn update_secret_metadata(
        &mut self,
        _: &GrantFacts,
        _: &str,
        _: &str,
        _: BTreeMap<String, String>,
        _: BTreeMap<String, String>,
    ) -> Result<SecretView, Error> {
        Err(Error::Stopped)
    }

    async fn empty_secret(&mut self, _: &GrantFacts, _: &str, _: &str) -> Result<SecretView, Error> {
        Err(Error::Stopped)
    }

    async fn delete_secret(&mut self, _: &GrantFacts, _: &str, _: &str) -> Result<bool, Error> {
        Err(Error::Stopped)
    }

    /// If a reconcile writes a status before it writes the Secret, Valet has refused the grant.
    async fn write_status(&mut self, _: &GrantFacts, status: GrantStatus) -> Result<GrantFacts, Error> {
        let ready = status
            .conditions
            .iter()
            .find(|c| c.type_ == ConditionType::Ready.as_str());
        let why = ready.map(|c| format!("{}: {}", c.reason, c.message));
        self.end(Err(why.unwrap_or_else(|| "the grant is refused".into())))
    }

    async fn write_finalizer(&mut self, grant: &GrantFacts, is_present: bool) -> Result<GrantFacts, Error> {
        if is_present {
            return self.end(Err(ONLY_OPERATOR.into()));
        }
        Ok(GrantFacts {
            held: false,
            ..grant.clone()
        })
    }

    async fn delete_grant(&mut self, _: &GrantFacts) -> Result<(), Error> {
        Err(Error::Stopped)
    }

    async fn publish_event(&mut self, _: &GrantFacts, _: GrantEvent) {}

    fn remember_poll(&mut self, _: &GrantFacts, _: Timestamp) {}

    fn remember_repairs(&mut self, _: &GrantFacts, change: impl FnOnce(&mut Repairs)) -> Repairs {
        let mut repairs = Repairs::default();
        change(&mut repairs);
        repairs
    }

    fn initiated_upload<T>(&mut self, _: &GrantFacts, change: impl FnOnce(&mut Option<InitiatedUpload>) -> T) -> T {
        change(&mut None)
    }
}
