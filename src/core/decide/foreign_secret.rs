//! Handles a grant whose Secret name is already used by a Secret with a different owner.

use jiff::SignedDuration;

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{
        facts::{Owner, SecretFact},
        lifetime::add,
        step::Step,
    },
};

/// If a user deletes a grant and creates a new grant with the same name, the Secret of the deleted grant may still
/// exist. Valet waits at most 60 seconds until the garbage collector deletes this Secret. After that, the status of the
/// new grant reports a conflict.
const PREDECESSOR_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

impl Evaluator<'_> {
    /// Returns the step for a grant whose Secret name is already used by a Secret with a different owner. Valet never
    /// changes a Secret with a different owner.
    pub(super) fn foreign_secret(&self) -> Option<Step> {
        let SecretFact::Present(secret) = &self.secret else {
            return None;
        };
        let name = self.g.secret_name();
        match &secret.owner {
            Owner::ThisGrant => None,
            Owner::Predecessor
                if self.g.created.is_some_and(|c| self.now < add(c, PREDECESSOR_PATIENCE)) =>
            {
                let message = format!("Secret {name} belongs to a deleted grant with the same name; Valet waits until Kubernetes deletes this Secret");
                Some(self.situation(Reason::PredecessorSecret, message, false))
            }
            Owner::Predecessor => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} belongs to a deleted grant with the same name, and Kubernetes has not deleted the Secret; delete this Secret, or create a grant with another spec.secretName"),
                false,
            )),
            Owner::Foreign(why) => Some(self.situation(
                Reason::SecretConflict,
                format!("Secret {name} exists and does not belong to this grant ({why}); Valet does not change this Secret; delete the Secret, or create a grant with another spec.secretName"),
                false,
            )),
        }
    }
}
