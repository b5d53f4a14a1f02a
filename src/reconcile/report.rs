//! Executes the steps that report to users: writes the grant's status, and publishes Events.

use super::{Effects, Error, Note, Reconcile};
use crate::{api::GrantStatus, core::GrantEvent};

impl<E: Effects> Reconcile<'_, E> {
    pub(super) async fn report(&mut self, status: GrantStatus, event: Option<GrantEvent>) -> Result<(), Error> {
        match self.effects.write_status(&self.facts.grant, status).await {
            Ok(grant) => self.facts.grant = grant,
            Err(Error::Conflict(_)) => return self.read_grant().await,
            Err(e) => return Err(e),
        }
        if let Some(event) = event {
            self.effects.publish_event(&self.facts.grant, event).await;
        }
        Ok(())
    }

    pub(super) async fn write_finalizer(&mut self, is_present: bool) -> Result<(), Error> {
        match self.effects.write_finalizer(&self.facts.grant, is_present).await {
            Ok(grant) => {
                self.facts.grant = grant;
                Ok(())
            }
            Err(Error::Conflict(_)) => self.read_grant().await,
            Err(e) => Err(e),
        }
    }

    pub(super) async fn remove_finalizer(&mut self, event: Option<GrantEvent>) -> Result<(), Error> {
        if let Some(event) = event {
            // Nobody can create Events in a namespace that is being deleted. Valet therefore also logs the message.
            self.note(Note::UploadAbandoned(&event.message));
            self.effects.publish_event(&self.facts.grant, event).await;
        }
        self.write_finalizer(false).await
    }
}
