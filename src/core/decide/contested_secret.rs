//! Restores a grant Secret that a client other than Valet deletes or changes.

use jiff::Timestamp;

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{lifetime::Lifetime, step::Step},
};

impl Evaluator<'_> {
    /// Returns true if Valet is about to restore the grant Secret, because another client deleted or changed the
    /// Secret. The restored credential keeps its old issue time.
    pub(super) fn is_repair(&self, live: Option<Lifetime>, next: Lifetime) -> bool {
        let is_same = live.is_some_and(|live| live.issued_at == next.issued_at);
        is_same && self.f.repairs.is_expected && self.own_secret().is_none()
    }

    /// Returns the step for the pause before Valet restores the grant Secret. The status reports that Valet restores
    /// the Secret at the time `due`.
    pub(super) fn await_repair(&self, due: Timestamp) -> Step {
        let message = format!(
            "another client repeatedly deletes or changes Secret {name}; Valet restores the Secret at {due}",
            name = self.g.secret_name()
        );
        self.situation_until(Reason::SecretContested, message, Some(due))
    }

    /// Returns a message if clients other than Valet repeatedly delete or change the grant Secret.
    pub(super) fn contested(&self) -> Option<String> {
        let (count, first, last) = self.f.repairs.contested_restores(self.now)?;
        Some(format!(
            "another client deleted or changed Secret {name}, and Valet restored the Secret {count} times since {first}, last at {last}, with growing pauses; find out which client writes the Secret (kubectl get secret {name} -n {namespace} --show-managed-fields -o jsonpath='{{.metadata.managedFields[*].manager}}', or the audit log) and stop this client",
            name = self.g.secret_name(),
            namespace = self.g.namespace,
        ))
    }
}
