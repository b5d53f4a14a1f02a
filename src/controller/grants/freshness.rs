//! Detects changes that happen while Valet signs a credential. Signing can take seconds with a slow store, and the
//! credential may no longer be allowed afterwards.

use std::sync::Arc;

use kube::ResourceExt;

use super::{Error, Reconciliation, call};
use crate::{api::Grant, controller::strip_metadata::lighten_grant, core::StoreFact, provider::Provider};

impl<G: Grant> Reconciliation<'_, G> {
    /// Returns true if the grant or its store has changed since the decision to sign. The caller must then not
    /// publish the new credential. The outdated facts are dropped.
    pub(super) async fn is_overtaken(&mut self, provider: &Arc<dyn Provider>) -> Result<bool, Error> {
        let Some(watched) = self.context.caller.watched(self.grant.as_ref()) else {
            return Err(Error::Gone("the grant"));
        };
        let grant = &self.facts.grant;
        let is_news = |now: &G| {
            now.meta().generation.unwrap_or_default() > grant.generation
                || now.meta().deletion_timestamp.is_some() && !grant.deleting
        };
        if watched.0.as_ref().is_ok_and(is_news) {
            self.read_grant().await?;
            return Ok(true);
        }
        let StoreFact::Usable(view) = &self.facts.store else {
            return Ok(false);
        };
        let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
        if self.context.stores.is_current(store, namespace, view, provider).await? {
            return Ok(false);
        }
        tracing::debug!(
            kind = G::OPERATION.kind(),
            namespace = self.grant.namespace(),
            name = self.grant.name_any(),
            "the store changed while Valet signed the credential; Valet evaluates the grant again"
        );
        self.facts.store = StoreFact::Unread;
        self.provider = None;
        Ok(true)
    }
    /// Reads the grant from the apiserver after a conflict. Returns an error if the name now belongs to another
    /// grant.
    pub(super) async fn read_grant(&mut self) -> Result<(), Error> {
        let now = call("reading the grant", self.api().get(&self.facts.grant.name)).await?;
        if now.uid().as_deref() != Some(self.facts.grant.uid.as_str()) {
            return Err(Error::Gone("the grant"));
        }
        self.has_grant(now);
        Ok(())
    }

    /// Replaces the grant of this reconcile with a version that the apiserver returned.
    pub(super) fn has_grant(&mut self, mut now: G) {
        lighten_grant(&mut now);
        self.grant = Arc::new(now);
        self.context.memory.wrote(&self.grant);
        self.facts.grant = self.context.memory.facts(self.grant.as_ref());
    }
}
