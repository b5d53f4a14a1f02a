//! Handles suspended and revoked grants.

use super::{
    evaluator::Evaluator,
    status::{Arrival, Situation},
};
use crate::{
    api::Reason,
    core::{
        facts::{SecretFact, StoreFact},
        lifetime::Lifetime,
        step::{Read, Step},
    },
};

impl Evaluator<'_> {
    /// Handles `spec.suspend`: Valet deletes the Secret and signs no credential. The suspension does not change the
    /// expiry of the grant's credential or the grant's deadline.
    pub(super) fn suspended(&self, credential: Option<Lifetime>) -> Step {
        let message = match self.copies_expire_at(credential) {
            Some(end) if end > self.now => {
                format!("spec.suspend is true: the Secret was deleted, but copies of the credential work until {end}")
            }
            Some(end) => {
                format!("spec.suspend is true: no credential is issued; the last credential expired at {end}")
            }
            None => "spec.suspend is true: no credential is issued".to_owned(),
        };
        let situation = Situation::of(Reason::Suspended, message, credential);
        self.suspend_credential(&situation, || None)
            .unwrap_or_else(|| self.settle(&situation, self.next_end(credential)))
    }

    /// Handles `spec.revoke`: Valet deletes the Secret and finishes the grant.
    pub(super) fn revoked(&self) -> Step {
        let credential = self.credential();
        let mut store = None;
        let message = match self.copies_expire_at(credential) {
            Some(end) if end > self.now && self.upload_id().is_some() => format!(
                "spec.revoke is true: Secret {name} was deleted, and Valet aborts the multipart upload; copies of the part URLs do not work after the abort",
                name = self.g.secret_name()
            ),
            Some(end) if end > self.now => {
                let remedy = match &self.f.store {
                    StoreFact::Usable(store) if self.access().is_ok() => store.capabilities.revocation,
                    StoreFact::Usable(_) | StoreFact::Missing | StoreFact::Unusable { .. } => {
                        "revoke the store's credentials that signed the credential"
                    }
                    StoreFact::Unread => {
                        store = Some(Step::Read(Read::Store));
                        ""
                    }
                };
                let what = if self.g.operation_spec.is_for_credentials() {
                    "the credentials"
                } else {
                    "the URL"
                };
                format!(
                    "spec.revoke is true: Secret {name} was deleted, but copies of {what} work until {end}; only the owner of {store} can invalidate the copies earlier: {remedy}",
                    name = self.g.secret_name(),
                    store = self.g.terms.store_ref
                )
            }
            Some(end) => {
                format!("spec.revoke is true: no more credentials are issued; the last credential expired at {end}")
            }
            None => "spec.revoke is true: no credential was issued, and Valet will not issue a credential".to_owned(),
        };
        let arrival = if self.was_completed() {
            Arrival::Unchanged
        } else {
            let why = "the grant was revoked before Valet saw an upload, and Valet no longer polls the store";
            Arrival::Unknown(Reason::Revoked, why.to_owned())
        };
        let situation = Situation {
            arrival,
            finished: true,
            ..Situation::of(Reason::Revoked, message, credential)
        };
        self.suspend_credential(&situation, || store)
            .unwrap_or_else(|| self.settle(&situation, None))
    }

    /// Returns the next step for a grant whose Secret must be deleted. Returns `None` if nothing is left to do.
    ///
    /// If the status does not describe the credential yet, Valet writes the status before it deletes the Secret.
    /// Without this order, no record of the credential would exist after the deletion.
    fn suspend_credential(&self, situation: &Situation, first: impl FnOnce() -> Option<Step>) -> Option<Step> {
        if matches!(self.secret, SecretFact::Unread) {
            return Some(Step::Read(Read::Secret));
        }
        let delete_secret = self.delete_secret();
        if delete_secret.is_some()
            && situation
                .credential
                .is_some_and(|credential| self.is_reported(credential))
        {
            return delete_secret;
        }
        if let Some(step) = first() {
            return Some(step);
        }
        match self.settle(situation, None) {
            // The status already reports the credential.
            Step::Rest { .. } => delete_secret,
            report if delete_secret.is_some() => Some(report),
            _ => None,
        }
    }
}
