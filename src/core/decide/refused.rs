//! Handles a grant that must have no credential.

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{refusal::Refusal, step::Step},
};

impl Evaluator<'_> {
    /// Returns the next step for a refused grant: Valet deletes the grant Secret if it exists, and writes the refusal
    /// to the status.
    pub(super) fn refuse(&self, refusal: Refusal) -> Step {
        self.without_credential(refusal.reason, refusal.message)
    }

    /// Returns the next step for a grant that must have no credential. Valet deletes the grant Secret if it exists,
    /// and writes the reason to the status.
    pub(super) fn without_credential(&self, reason: Reason, message: String) -> Step {
        if let Some(step) = self.delete_secret().or_else(|| self.abort_refused_upload(reason)) {
            return step;
        }
        // After Valet deletes the Secret, a user who read the Secret earlier can still have a copy of the credential.
        // The store accepts this copy until the credential expires.
        let message = match self.copies_expire_at(self.credential()) {
            Some(end) if end > self.now => {
                let copies = format!("the Secret was deleted, but copies of the credential work until {end}");
                format!("{message}; {copies}")
            }
            Some(end) => {
                let expired = format!("the last credential expired at {end}");
                format!("{message}; {expired}")
            }
            None => message,
        };
        self.situation(reason, message, false)
    }
}
