//! Deletes the grant Secret. Finalizers from other controllers can keep the Secret.

use super::{evaluator::Evaluator, status::describe};
use crate::core::{
    facts::{Owner, SecretFact},
    step::{Read, Step},
};

impl Evaluator<'_> {
    /// Returns the next step for the deletion of the grant's Secret, if the Secret exists.
    pub(super) fn delete_secret(&self) -> Option<Step> {
        match self.secret {
            SecretFact::Unread => Some(Step::Read(Read::Secret)),
            SecretFact::Present(s) if s.owner == Owner::ThisGrant => {
                let (uid, resource_version) = (s.uid.clone(), s.resource_version.clone());
                // If a deleted Secret has finalizers, users can still read the Secret until the finalizers are
                // removed. Valet therefore removes the data of the Secret.
                let is_held = !s.finalizers.is_empty() && s.has_data && self.f.emptying_refused.is_none();
                match self.report_before_deletion().filter(|_| !s.deleting) {
                    Some(report) => Some(report),
                    None if is_held => Some(Step::Empty { uid, resource_version }),
                    None if s.deleting => None,
                    None => Some(Step::DeleteSecret { uid, resource_version }),
                }
            }
            SecretFact::Present(_) | SecretFact::Absent => None,
        }
    }

    /// Before Valet deletes the Secret, this method makes sure that the status describes the credential. If the status
    /// does not, the method returns the step that writes the missing facts. The facts come from the Secret and from the
    /// memory of this process. Without these facts, Valet would treat the grant as a new grant after the deletion.
    fn report_before_deletion(&self) -> Option<Step> {
        let (credential, upload) = (self.credential(), self.upload_id());
        let is_known = credential.is_none_or(|credential| self.is_reported(credential))
            && self.g.status.upload_id.as_deref() == upload;
        if is_known && (self.g.status_is_own || (credential.is_none() && upload.is_none())) {
            return None;
        }
        let mut status = self.g.status.clone();
        status.upload_id = upload.map(str::to_owned);
        if let Some(record) = credential.map(|credential| self.record(credential)) {
            describe(&mut status, &record);
        }
        Some(Step::Report {
            status: Box::new(status),
            notice: None,
        })
    }

    /// Returns a message if the Secret of this grant is being deleted, but finalizers of other controllers delay the
    /// deletion.
    pub(super) fn blocked_secret(&self) -> Option<String> {
        let SecretFact::Present(secret) = &self.secret else {
            return None;
        };
        if secret.owner != Owner::ThisGrant || !secret.deleting || secret.finalizers.is_empty() {
            return None;
        }
        let left = match (&self.f.emptying_refused, secret.has_data) {
            (_, false) => "Valet has removed the data of the Secret".to_owned(),
            (Some(why), true) => {
                format!("the data of the Secret can still be read, because Valet could not remove the data: {why}")
            }
            (None, true) => "the data of the Secret can still be read".to_owned(),
        };
        let (mark, finalizers) = (self.blocked_mark(), secret.finalizers.join(" and "));
        Some(format!("{mark}{finalizers}; {left}"))
    }

    /// Returns the beginning of the text about finalizers that delay the deletion of the Secret.
    fn blocked_mark(&self) -> String {
        let waits = format!(
            "Secret {name} is being deleted, but the deletion waits for finalizers",
            name = self.g.secret_name()
        );
        format!("; {waits}: ")
    }

    /// Returns the message of a condition without the text about finalizers that delay the deletion of the Secret.
    pub(super) fn without_blocked<'m>(&self, message: &'m str) -> &'m str {
        message.split(&self.blocked_mark()).next().unwrap_or(message)
    }
}
