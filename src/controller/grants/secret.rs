//! The steps that concern the grant's Secret: it is read, written with a key that is signed for it, changed, and taken back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::info;

use super::{Error, Visit};
use crate::{
    api::{Grant, Reason},
    core::{Publish, PublishMode, SECRET_CAPACITY, SecretFact, SecretView, SignError, secret_bytes, secret_object},
};

impl<G: Grant> Visit<'_, G> {
    pub(super) async fn read_secret(&mut self) -> Result<(), Error> {
        let found = match self.context.secrets.view(&self.facts.grant).await {
            // An account that may neither write nor read Secrets here: there is none that it has made, and the refused
            // write is what a person must hear of.
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
        // That a key is out and its Secret gone may mean that another operator has withdrawn it, since the upload has come or
        // the grant was revoked, and our watch is late. Its status, or the spec, was written before: one read tells, and
        // the key of a grant that is over is not put there again.
        if matches!(self.facts.secret, SecretFact::Absent) && self.facts.grant.status.binding.is_some() {
            self.read_grant().await?;
        }
        Ok(())
    }

    pub(super) async fn publish(&mut self, mut publish: Publish) -> Result<(), Error> {
        let Some(provider) = self.provider.clone() else {
            return Err(Error::Api {
                call: "signing",
                why: "the store is not usable any more".into(),
            });
        };
        if provider.signs_remotely() || (publish.request.ask.parts().is_some() && publish.request.upload.is_none()) {
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
                "the key has {bytes} bytes with all its URLs, and a Secret holds {SECRET_CAPACITY}; make the parts larger (spec.multipart.partSizeBytes)"
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
            // Another one by that name, or it changed, or went: what is there decides.
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
            secret = grant.secret_name(), expires = %lifetime.expires_at, "key issued"
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

    /// After a create or replace was turned down. A namespace that is not there answers a create with 404, too.
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

    /// Whether the Secret is there as it was issued, as far as this process knows.
    fn expects_secret(&mut self, is_expected: bool) {
        let uid = &self.facts.grant.uid;
        let memory = &self.context.memory;
        self.facts.repairs = memory.keep_repairs(uid, |repairs| repairs.is_expected = is_expected);
    }

    /// The Secret is as it was again after somebody else had deleted or changed it, if that is so.
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

    /// Removes the Secret's data, since its deletion will not.
    pub(super) async fn empty(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self.context.secrets.empty(grant, uid, resource_version).await {
            Ok(view) => {
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    secret = grant.secret_name(),
                    "data removed from a Secret that finalizers hold"
                );
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            // An immutable Secret can only be deleted.
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
                    "key withdrawn"
                );
                self.expects_secret(false);
                match &self.facts.secret {
                    // It is still there.
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
