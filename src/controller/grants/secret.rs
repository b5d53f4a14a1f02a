//! Executes the steps for the grant Secret: reads, writes, updates and deletes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::info;

use super::{Error, Reconciliation};
use crate::{
    api::{Grant, Reason},
    core::{Publish, PublishMode, SECRET_CAPACITY, SecretFact, SecretView, SignError, secret_bytes, secret_object},
};

impl<G: Grant> Reconciliation<'_, G> {
    pub(super) async fn read_secret(&mut self) -> Result<(), Error> {
        let found = match self.context.secrets.view(&self.facts.grant).await {
            // The apiserver refused a write and now also this read, so Valet has created no Secret. The status must
            // report the refused write, and not the refused read.
            Err(Error::Refused(_)) if self.facts.secret_refused.is_some() => None,
            found => found?,
        };
        if found
            .as_ref()
            .is_some_and(|secret| secret.is_authentic && !secret.deleting)
        {
            self.expects_secret(true);
        }
        self.facts.secret = found.map_or(SecretFact::Absent, SecretFact::Present);
        // The status says that a credential is issued, but the Secret is missing. Another operator may have deleted
        // the Secret because the grant is finished, while the watch of this operator is late. One read of the grant
        // shows its current state. Valet therefore does not restore the credential of a finished grant.
        if matches!(self.facts.secret, SecretFact::Absent) && self.facts.grant.status.binding.is_some() {
            self.read_grant().await?;
        }
        Ok(())
    }

    pub(super) async fn publish(&mut self, mut publish: Publish) -> Result<(), Error> {
        let Some(provider) = self.provider.clone() else {
            return Err(Error::Api {
                call: "signing",
                why: "the store of this grant can no longer be used".into(),
            });
        };
        if provider.requires_remote_signing()
            || (publish.request.ask.parts().is_some() && publish.request.upload.is_none())
        {
            self.may_ask_store()?;
        }
        let signed = self
            .within(async {
                self.begin(provider.as_ref(), &mut publish).await?;
                provider.sign(&publish.request).await
            })
            .await
            .unwrap_or_else(|message| {
                let reason = Reason::StoreUnreachable;
                Err(SignError::Credentials { reason, message })
            });
        let signed = match signed {
            Ok(signed) => signed,
            Err(SignError::Credentials { reason, message }) => {
                self.facts.sign_refused = Some((reason, message));
                return Ok(());
            }
            Err(SignError::Impossible(message)) => {
                self.facts.sign_refused = Some((Reason::CapabilityMissing, message));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        self.permit = None;
        if self.is_overtaken(&provider).await? {
            return Ok(());
        }
        let grant = &self.facts.grant;
        let secret = secret_object(grant, &publish, &signed);
        let bytes = secret_bytes(&secret);
        if bytes > SECRET_CAPACITY {
            let message = format!(
                "the Secret with all signed URLs would have {bytes} bytes, but at most {SECRET_CAPACITY} bytes are allowed; increase spec.multipart.partSizeBytes"
            );
            self.facts.sign_refused = Some((Reason::CapabilityMissing, message));
            return Ok(());
        }
        let result = self.context.secrets.publish(grant, &publish.mode, secret).await;
        let view = match result {
            Ok(view) => view,
            Err(Error::Refused(why)) => {
                self.facts.secret_refused = Some(why);
                return Ok(());
            }
            // Another Secret has the same name, or another client changed or deleted the Secret. Valet reads the
            // Secret, so that the next decision uses its current state.
            Err(Error::Conflict(_) | Error::Gone(_)) => {
                let read = self.read_secret_or_stop(&publish.mode).await;
                self.drop_loser(publish.request.access()).await;
                return read;
            }
            Err(e) => return Err(e),
        };
        let lifetime = publish.request.lifetime;
        info!(
            kind = G::OPERATION.kind(), namespace = grant.namespace, name = grant.name,
            secret = grant.secret_name(), expires = %lifetime.expires_at, "credential issued"
        );
        let age = grant
            .created
            .map(|c| Timestamp::now().duration_since(c).as_secs_f64().max(0.0));
        let first = grant.status.issued_time.is_none() && publish.mode == PublishMode::Create;
        self.context.metrics.key_issued(G::OPERATION, age.filter(|_| first));
        self.has_secret(view);
        self.repaired(publish.is_repair);
        self.drop_loser(publish.request.access()).await;
        Ok(())
    }

    /// Reads the Secret after the apiserver refused to create or replace it. If the namespace does not exist, a
    /// create request also returns 404.
    async fn read_secret_or_stop(&mut self, mode: &PublishMode) -> Result<(), Error> {
        self.read_secret().await?;
        match (&self.facts.secret, mode) {
            (SecretFact::Absent, PublishMode::Create) => Err(Error::Conflict("the grant's Secret")),
            _ => Ok(()),
        }
    }

    fn has_secret(&mut self, view: SecretView) {
        self.context
            .memory
            .wrote_secret(&self.facts.grant.uid, &view.resource_version);
        self.facts.secret = SecretFact::Present(view);
        self.expects_secret(true);
    }

    /// Records if Valet expects the Secret to exist as it was issued.
    fn expects_secret(&mut self, is_expected: bool) {
        let uid = &self.facts.grant.uid;
        let memory = &self.context.memory;
        self.facts.repairs = memory.keep_repairs(uid, |repairs| repairs.is_expected = is_expected);
    }

    /// Records that this reconcile restored the Secret, because another client had deleted or changed it.
    pub(super) fn repaired(&mut self, is_repair: bool) {
        if is_repair {
            let uid = &self.facts.grant.uid;
            let memory = &self.context.memory;
            self.facts.repairs = memory.keep_repairs(uid, |repairs| repairs.restored(self.now));
        }
    }

    pub(super) async fn retouch(
        &mut self,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self
            .context
            .secrets
            .retouch(grant, uid, resource_version, labels, annotations)
            .await
        {
            Ok(view) => {
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }

    /// Removes the Secret's data, because finalizers of other clients delay the deletion of the Secret.
    pub(super) async fn empty(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self.context.secrets.empty(grant, uid, resource_version).await {
            Ok(view) => {
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    secret = grant.secret_name(),
                    "Valet removed the data from the Secret, because finalizers delay the deletion of the Secret"
                );
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            // Data of an immutable Secret cannot be removed. Such a Secret can only be deleted.
            Err(Error::Refused(why)) => {
                self.facts.emptying_refused = Some(why);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn withdraw(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self.context.secrets.withdraw(grant, uid, resource_version).await {
            Ok(()) => {
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    secret = grant.secret_name(),
                    "Secret deleted"
                );
                self.expects_secret(false);
                match &self.facts.secret {
                    // The Secret still exists until other clients remove its finalizers.
                    SecretFact::Present(held) if !held.finalizers.is_empty() => self.read_secret().await,
                    _ => {
                        self.facts.secret = SecretFact::Absent;
                        Ok(())
                    }
                }
            }
            Err(Error::Conflict(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }
}
