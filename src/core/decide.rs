//! The function [`decide`], which returns the next step for a grant. The files in the folder `decide` contain the
//! methods of [`Evaluator`].

mod contested_secret;
mod credential_record;
mod deletion;
mod evaluator;
mod expired;
mod finished;
mod foreign_secret;
mod issue;
mod multipart;
mod multipart_assembly;
mod multipart_cleanup;
mod published;
mod refused;
mod remembered_secret;
pub(super) mod renewal;
mod report;
pub(super) mod rotation;
mod secret_deletion;
mod secret_metadata;
mod status;
mod store_access;
mod store_clock;
mod suspend;
mod total;

use jiff::Timestamp;

use self::evaluator::Evaluator;
use super::{
    facts::{Facts, SecretFact},
    step::{Read, Step},
};
use crate::api::Reason;

/// Returns the next step for one grant.
///
/// A grant can match several of these states: deleted, finished, revoked, expired, suspended, refused, waiting,
/// published. The function checks the states in this order. The first state that matches determines the next step.
pub fn decide(facts: &Facts, now: Timestamp) -> Step {
    remembered_secret::decide(facts, now).unwrap_or_else(|| Evaluator::new(facts, &facts.secret, now).step())
}

impl Evaluator<'_> {
    /// Returns the next step for the grant.
    fn step(&self) -> Step {
        if self.g.deleting {
            return self.delete();
        }
        if let Some((reason, finished)) = self.finished() {
            return self.finish(reason, finished);
        }
        if self.g.terms.is_revoked() {
            return self.revoked();
        }
        // Before the first credential, Valet does not read the Secret. It creates the Secret, and the API server
        // rejects this request if a Secret with the same name exists. After the first credential was issued, Valet must
        // read the Secret before it decides.
        let issued_before = self.g.status.issued_time.is_some();
        if issued_before && matches!(self.secret, SecretFact::Unread) {
            return Step::Read(Read::Secret);
        }
        // The grant's spec may name a Secret that does not belong to this grant. Valet does not change such a Secret. A
        // user can still suspend or revoke the grant.
        let credential = self.credential();
        let is_suspended = self.g.terms.is_suspended();
        if !is_suspended && let Some(refusal) = self.total_time_refusal(credential) {
            return self.foreign_secret().unwrap_or_else(|| self.refuse(refusal));
        }
        if self.expired_at(credential).is_some_and(|end| end <= self.now) {
            return self.expired(credential);
        }
        if !is_suspended && let Some(step) = self.foreign_secret() {
            return step;
        }
        if is_suspended {
            return self.suspended(credential);
        }
        if !self.g.broken_rules.is_empty() {
            return self.without_credential(Reason::InvalidSpec, self.g.broken_rules.join("; "));
        }
        if let Some(refusal) = self.f.settings.secret_metadata.refusal(&self.g.template()) {
            return self.refuse(refusal);
        }
        self.issue(credential)
    }
}
