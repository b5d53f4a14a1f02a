//! Handles a grant that is being deleted.

use super::{
    evaluator::Evaluator,
    multipart_cleanup::Cleanup,
    status::{Situation, condition},
};
use crate::{
    api::{ConditionType, Reason},
    core::step::Step,
};

impl Evaluator<'_> {
    /// Handles a grant that is being deleted. Valet deletes the grant Secret itself, because the garbage collector
    /// waits until the grant has no finalizers. Controllers other than Valet can also add finalizers to a grant.
    pub(super) fn delete(&self) -> Step {
        if let Some(step) = self.delete_secret() {
            return step;
        }
        if !self.g.held {
            return self.deleting();
        }
        match self.clean_up(self.g.deleted_at.unwrap_or(self.now)) {
            Cleanup::Next(step) => step,
            Cleanup::Wait(again) => Step::Rest { until: Some(again) },
            Cleanup::Done => Step::Rest { until: None },
        }
    }

    /// Writes the status of a grant that is being deleted but still has finalizers from controllers other than Valet.
    /// The status must no longer name a Secret.
    fn deleting(&self) -> Step {
        let is_said =
            condition(&self.g.status, ConditionType::Ready).is_some_and(|c| c.reason == Reason::Deleting.as_str());
        if self.g.status.binding.is_none() && !is_said {
            return Step::Rest { until: None };
        }
        let credential = self.credential();
        let outcome = match self.copies_expire_at(credential) {
            Some(end) if end > self.now => {
                format!("the Secret was deleted, but copies of the credential work until {end}")
            }
            _ => "the Secret was deleted".to_owned(),
        };
        let message = format!(
            "the grant is being deleted, but finalizers in metadata.finalizers delay the deletion; {outcome}"
        );
        self.settle(&Situation::of(Reason::Deleting, message, credential), None)
    }
}
