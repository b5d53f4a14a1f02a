//! Standing in line for a store that has as many requests as it may.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::{IN_LINE, LONGEST_PAUSE, Visit};
use crate::{api::Grant, controller::error::Error, core::store_id};

impl<G: Grant> Visit<'_, G> {
    /// The store has no time for this grant now, which is called when it has; if that call is lost, it asks again by
    /// itself after as many rounds as come before it. Whatever else is to be done with its key is done in time.
    pub(super) fn wait_in_line(&self, rounds: usize) -> Action {
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let pause = IN_LINE.saturating_mul(rounds).min(LONGEST_PAUSE);
        let status = &self.facts.grant.status;
        let ends = [&status.expiration_time, &self.facts.grant.terms.deadline_time];
        let next = ends.into_iter().flatten().map(|t| t.0).filter(|t| *t > self.now).min();
        let next = next.and_then(|t| Duration::try_from(t.duration_since(self.now)).ok());
        Action::requeue(next.map_or(pause, |next| next.min(pause)))
    }

    /// The right to make requests to the store, which is kept until the visit turns to the apiserver with a write.
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
