//! Schedules a grant that must wait because the request limit of its store is reached.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::{IN_LINE, LONGEST_PAUSE, Reconciliation};
use crate::{api::Grant, controller::error::Error, core::store_id};

impl<G: Grant> Reconciliation<'_, G> {
    /// Returns when to reconcile a grant that waits in the queue of its store. Normally the limiter of the store
    /// enqueues the grant earlier. If this does not happen, the grant tries again after a pause. The pause grows with
    /// the number of rounds that come before the grant. It ends when the grant's credential expires, so that the
    /// credential is deleted in time.
    pub(super) fn wait_in_line(&self, rounds: usize) -> Action {
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let pause = IN_LINE.saturating_mul(rounds).min(LONGEST_PAUSE);
        let status = &self.facts.grant.status;
        let ends = [&status.expiration_time, &self.facts.grant.terms.deadline_time];
        let next = ends.into_iter().flatten().map(|t| t.0).filter(|t| *t > self.now).min();
        let next = next.and_then(|t| Duration::try_from(t.duration_since(self.now)).ok());
        Action::requeue(next.map_or(pause, |next| next.min(pause)))
    }

    /// Takes a permit for requests to the store. The reconcile keeps the permit until it writes to the apiserver.
    pub(super) fn may_ask_store(&mut self) -> Result<(), Error> {
        if self.permit.is_none() {
            let grant = &self.facts.grant;
            let id = store_id(&grant.terms.store_ref, &grant.namespace);
            let who = (G::OPERATION, grant.namespace.as_str(), grant.name.as_str());
            self.permit = Some(self.context.requests.take(&id, who).map_err(Error::InLine)?);
        }
        Ok(())
    }
}
