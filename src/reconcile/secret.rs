//! Executes the steps for the grant Secret: reads, writes, updates and deletes it.

use std::collections::BTreeMap;

use super::{Effects, Error, Note, Reconcile};
use crate::{
    api::Reason,
    core::{
        Publish, PublishMode, Repairs, SECRET_CAPACITY, SecretFact, SecretView, SignError, secret_bytes,
        secret_object,
    },
};

impl<E: Effects> Reconcile<'_, E> {
    pub(super) async fn read_secret(&mut self) -> Result<(), Error> {
        let found = match self.effects.read_secret(&self.facts.grant).await {
            // The apiserver refused to write the Secret, and now it also refuses to read it. Valet treats the Secret
            // as missing. The status therefore reports the refused write, and not the refused read.
            Err(Error::Refused(_)) if self.facts.secret_refused.is_some() => None,
            found => found?,
        };
        if found.as_ref().is_some_and(|s| s.is_authentic && !s.deleting) {
            self.expects_secret(true);
        }
        self.facts.secret = found.map_or(SecretFact::Absent, SecretFact::Present);
        // The status says that a credential is issued, but the Secret does not exist. Perhaps the grant has finished,
        // and another replica of the operator has deleted the Secret. The watch of this replica has possibly not
        // reported these changes yet.
        //
        // Valet therefore reads the grant from the apiserver. Otherwise Valet could restore the credential of a
        // finished grant.
        if matches!(self.facts.secret, SecretFact::Absent) && self.facts.grant.status.binding.is_some() {
            self.read_grant().await?;
        }
        Ok(())
    }

    pub(super) async fn publish(&mut self, mut publish: Publish) -> Result<(), Error> {
        let is_multipart = publish.request.operation_spec.is_multipart();
        let initiates = is_multipart && publish.request.upload.is_none();
        if initiates || self.effects.signs_with_requests() {
            self.take_permit()?;
        }
        if initiates && let Err(e) = self.initiate(&mut publish).await {
            return self.sign_refused(e);
        }
        let signed = match self.effects.sign(&publish.request).await {
            Ok(signed) => signed,
            Err(e) => return self.sign_refused(e),
        };
        self.effects.return_permit();
        if self.is_stale().await? {
            return Ok(());
        }
        let secret = secret_object(&self.facts.grant, &publish, &signed);
        let bytes = secret_bytes(&secret);
        if bytes > SECRET_CAPACITY {
            let message = format!(
                "the Secret with all signed URLs would have {bytes} bytes, but at most {SECRET_CAPACITY} bytes are allowed; increase spec.multipart.partSizeBytes"
            );
            self.facts.sign_refused = Some((Reason::CapabilityMissing, message));
            return Ok(());
        }
        match self
            .effects
            .write_secret(&self.facts.grant, &publish.mode, secret)
            .await
        {
            Ok(view) => {
                let is_first = self.facts.grant.status.issued_time.is_none() && publish.mode == PublishMode::Create;
                self.note(Note::CredentialIssued {
                    expires_at: publish.request.lifetime.expires_at,
                    is_first,
                });
                self.has_secret(view);
                self.repaired(publish.is_repair);
                if is_multipart {
                    self.abort_unrecorded(publish.request.access()).await;
                }
                Ok(())
            }
            Err(Error::Refused(why)) => {
                self.facts.secret_refused = Some(why);
                Ok(())
            }
            // A Secret with this name already exists, or a client other than Valet changed or deleted the Secret.
            // Valet reads the Secret, so that the next decision uses its current state.
            Err(Error::Conflict(_) | Error::Gone(_)) => {
                let read = self.read_secret_or_stop(&publish.mode).await;
                if is_multipart {
                    self.abort_unrecorded(publish.request.access()).await;
                }
                read
            }
            Err(e) => Err(e),
        }
    }

    /// Records that the provider refused to sign, so that the next decision reports the reason.
    fn sign_refused(&mut self, why: SignError) -> Result<(), Error> {
        self.facts.sign_refused = Some(match why {
            SignError::Credentials { reason, message } => (reason, message),
            SignError::Impossible(message) => (Reason::CapabilityMissing, message),
            e @ SignError::Refused(_) => return Err(e.into()),
        });
        Ok(())
    }

    /// Reads the Secret after the apiserver refused to create or replace it. The apiserver also answers a create
    /// request with 404 if the namespace does not exist.
    async fn read_secret_or_stop(&mut self, mode: &PublishMode) -> Result<(), Error> {
        self.read_secret().await?;
        match (&self.facts.secret, mode) {
            (SecretFact::Absent, PublishMode::Create) => Err(Error::Conflict("the grant's Secret")),
            _ => Ok(()),
        }
    }

    fn has_secret(&mut self, view: SecretView) {
        self.facts.secret = SecretFact::Present(view);
        self.expects_secret(true);
    }

    /// Records whether Valet expects the Secret to exist with the content that Valet wrote.
    fn expects_secret(&mut self, is_expected: bool) {
        let change = |repairs: &mut Repairs| repairs.is_expected = is_expected;
        self.facts.repairs = self.effects.remember_repairs(&self.facts.grant, change);
    }

    /// Records that this reconcile restored the Secret, because a client other than Valet had deleted or changed it.
    pub(super) fn repaired(&mut self, is_repair: bool) {
        if is_repair {
            let now = self.now;
            let change = |repairs: &mut Repairs| repairs.restored(now);
            self.facts.repairs = self.effects.remember_repairs(&self.facts.grant, change);
        }
    }

    pub(super) async fn update_metadata(
        &mut self,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let grant = &self.facts.grant;
        let written = self
            .effects
            .update_secret_metadata(grant, uid, resource_version, labels, annotations);
        match written.await {
            Ok(view) => {
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }

    /// Removes the Secret's data, because finalizers from other programs delay the deletion of the Secret.
    pub(super) async fn empty_secret(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        match self
            .effects
            .empty_secret(&self.facts.grant, uid, resource_version)
            .await
        {
            Ok(view) => {
                self.note(Note::SecretEmptied);
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            // The Secret is immutable, so nobody can remove its data. Valet can only delete the Secret.
            Err(Error::Refused(why)) => {
                self.facts.emptying_refused = Some(why);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn delete_secret(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        match self
            .effects
            .delete_secret(&self.facts.grant, uid, resource_version)
            .await
        {
            Ok(is_there) => {
                self.note(Note::SecretDeleted);
                self.expects_secret(false);
                // The Secret exists until the programs that added finalizers to it remove them.
                if is_there {
                    return self.read_secret().await;
                }
                self.facts.secret = SecretFact::Absent;
                Ok(())
            }
            Err(Error::Conflict(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }
}
