use std::ops::ControlFlow::{self, Break, Continue};

use super::{
    evaluator::Evaluator,
    multipart::PartsProgress,
    status::{Arrival, NO_ONE_OBJECT, Situation, condition},
};
use crate::{
    api::{ConditionType, Reason, annotation},
    core::{
        facts::{ObjectFact, StoreFact},
        lifetime::{LONGEST_OBJECT_PAUSE, LONGEST_PARTS_PAUSE, Lifetime, next_poll},
        step::{Read, Step},
    },
};

impl Evaluator<'_> {
    /// Handles a published credential. Valet corrects the Secret's metadata and polls for the upload. Then Valet
    /// waits until the next poll or until the credential expires.
    ///
    /// If Valet must replace the credential but cannot, `trouble` is the reason.
    pub(super) fn published(&self, credential: Option<Lifetime>, trouble: Option<&str>) -> Step {
        let (Some(secret), Some(credential)) = (self.own_secret(), credential) else {
            // The Secret belongs to this grant, but the annotations with the times of its credential are missing.
            let message = format!(
                "Secret {name} no longer has the annotations {issued_at} and {expires_at}, so Valet does not know when the credential expires; delete this Secret, and Valet issues a new credential",
                name = self.g.secret_name(),
                issued_at = annotation::ISSUED_AT,
                expires_at = annotation::EXPIRES_AT
            );
            return self.situation(Reason::SecretConflict, message, false);
        };
        let repair_due = match self.correct_metadata(secret, credential) {
            Break(step) => return step,
            Continue(due) => due,
        };
        // The times of the polls depend on the time at which the grant's first credential was issued. If the time of
        // the last poll is in the future, somebody set the clock back. Valet then ignores the time of the last poll.
        let last_poll = self.f.last_poll.filter(|last| *last <= self.now);
        let longest = if self.is_multipart() {
            LONGEST_PARTS_PAUSE
        } else {
            LONGEST_OBJECT_PAUSE
        };
        let poll = next_poll(self.valid_from(credential), last_poll, longest);
        // Valet writes the credential to the status before it polls, because a poll may have to wait for the store.
        // If a client deletes the Secret during this wait, the status is the only record of the credential. Without
        // this record, Valet would issue a second credential.
        let is_due = self.is_reported(credential) && (self.f.poll_requested || poll <= self.now);
        let arrival = match self.arrival(credential, is_due) {
            Break(step) => return step,
            Continue(arrival) => arrival,
        };
        // Valet compares the expiry with the requested expiry only for a new credential, which the status does not
        // report yet. For an older credential, the result could be wrong. For example, a user may have moved the
        // deadline to a later time after the credential was signed.
        let truncated = if self.is_reported(credential) {
            condition(&self.g.status, ConditionType::Active)
                .is_some_and(|c| c.reason == Reason::ExpiryTruncated.as_str())
        } else {
            credential.is_truncated(self.requested_seconds(), self.deadline())
        };
        let operation = if self.is_upload() { "upload" } else { "download" };
        let name = self.g.secret_name();
        let end = credential.expires_at;
        let mut message = format!("the {operation} credential is in Secret {name} until {end}");
        if self.is_upload() && !self.awaits_object() {
            let extent = "the credential allows any number of objects with the prefix in spec.key";
            message = format!("{message}; {extent}");
        }
        let renewal = self.renewal_at(credential);
        let situation = Situation {
            active: true,
            truncated,
            arrival,
            renewal,
            renewal_failing: self.renewal_failing(credential, trouble),
            ..Situation::of(Reason::Issued, message, Some(credential))
        };
        let retry = trouble.map(|_| self.retry_renewal(credential));
        let resign = self.resign_at(secret, credential);
        let timers = [
            Some(self.end(credential)),
            retry,
            renewal,
            resign,
            repair_due,
            self.awaits_object().then_some(poll),
        ];
        self.settle(&situation, timers.into_iter().flatten().filter(|t| *t > self.now).min())
    }

    /// Finds out if the upload has arrived. `credential` is the lifetime of the credential, which is still valid.
    fn arrival(&self, credential: Lifetime, is_poll_due: bool) -> ControlFlow<Step, Arrival> {
        let access = match &self.f.store {
            StoreFact::Usable(_) => self.access().ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread => None,
        };
        if let Some(access) = access.as_ref().filter(|_| self.is_multipart()) {
            match self.check_parts(access, is_poll_due) {
                PartsProgress::Next(step) => return Break(step),
                PartsProgress::Waiting(arrival) => return Continue(arrival),
                PartsProgress::Ended => {}
            }
        }
        if self.is_upload() && !self.awaits_object() {
            return Continue(Arrival::Unknown(Reason::NotObservable, NO_ONE_OBJECT.to_owned()));
        }
        let Some(access) = access.filter(|_| self.awaits_object()) else {
            return Continue(Arrival::Unchanged);
        };
        Continue(match &self.f.object {
            ObjectFact::Unread if is_poll_due => return Break(Step::Read(Read::Object(access))),
            ObjectFact::Present { object, modified_at } if self.is_newer(Some(credential), *modified_at) => {
                match self.mismatch(object) {
                    // The object is in the store, but the grant is not finished. Valet renews the credential, so the
                    // holder can upload the object again.
                    None if self.is_standing() => Arrival::Seen(object.clone()),
                    None => return Break(self.completed(Some(credential), object)),
                    Some(why) if self.write_once() => return Break(self.another_object(&why)),
                    // Valet already saw a correct upload of this grant. Later, somebody replaced the object with an
                    // object that does not match the grant.
                    Some(_) if self.was_completed() => Arrival::Unchanged,
                    // The object does not match, but the holder of the credential can still upload the correct
                    // object.
                    Some(why) => Arrival::Differs(format!(
                        "the object in the store does not match the grant and was not uploaded with this credential: {why}"
                    )),
                }
            }
            ObjectFact::Present { object, .. } if self.write_once() => return Break(self.exists_already(object)),
            _ if self.was_completed() => Arrival::Unchanged,
            ObjectFact::Hidden => {
                let why = "the store refuses HEAD requests; either the store's credentials are not allowed to read the object, or the credentials are invalid and uploads also fail";
                Arrival::Unknown(Reason::NotObservable, why.to_owned())
            }
            ObjectFact::ClockSkewed(why) => Arrival::Unknown(Reason::ClockSkewed, why.clone()),
            ObjectFact::Absent | ObjectFact::Present { .. } if self.is_multipart() => return Break(self.aborted()),
            ObjectFact::Absent | ObjectFact::Present { .. } => Arrival::NotYet,
            // After a failed poll, Valet does not know if the object exists. It polls again after the usual pause.
            ObjectFact::Unread | ObjectFact::Unreachable(_) => Arrival::Unchanged,
        })
    }
}
