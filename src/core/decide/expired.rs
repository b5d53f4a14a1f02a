//! Handles a grant whose credential has expired, or whose deadline passed before Valet issued a credential.

use jiff::Timestamp;

use super::{
    evaluator::Evaluator,
    status::{Arrival, NO_ONE_OBJECT, Situation},
};
use crate::{
    api::Reason,
    core::{
        facts::{ObjectFact, StoreFact},
        lifetime::{Lifetime, POLL_PATIENCE, add},
        policy::admit,
        step::{Read, Step},
    },
};

impl Evaluator<'_> {
    /// Handles a grant whose credential has expired, or whose deadline passed before Valet issued a credential.
    pub(super) fn expired(&self, credential: Option<Lifetime>) -> Step {
        if let Some(step) = self.delete_secret() {
            return step;
        }
        let deadline = self.deadline().unwrap_or(self.now);
        let end = self.expired_at(credential).unwrap_or(deadline);
        let expired_text = match credential {
            // The credential expired without a renewal. Either the access rules do not allow the renewal, or the
            // renewal would have extended the expiry by too little.
            Some(credential)
                if credential.has_expired(self.now)
                    && self.total_end().is_some_and(|end| end <= deadline)
                    && self.g.terms.renews() =>
            {
                format!(
                    "the credential expired at {}; {}",
                    credential.expires_at,
                    self.total_time_text()
                )
            }
            Some(credential) if credential.has_expired(self.now) => {
                format!("the credential expired at {}", credential.expires_at)
            }
            Some(credential) => format!(
                "spec.deadlineTime {deadline} has passed; the Secret was deleted, but copies of the credential work until {end}",
                end = credential.expires_at
            ),
            None => format!("spec.deadlineTime {deadline} has passed; no credential was issued"),
        };
        if credential.is_none()
            && let Some(step) = self.refused_until_expiry(&expired_text)
        {
            return step;
        }
        let situation = |reason, message, arrival, finished| Situation {
            arrival,
            finished,
            ..Situation::of(reason, message, credential)
        };
        if !self.is_upload() {
            match &self.f.store {
                // If the store's clock is behind the operator's clock, the store may still accept the credential. Valet
                // therefore needs the clock difference. The step `Read::Store` reads the store resource and sends no
                // request to the object store.
                StoreFact::Unread if credential.is_some() => return Step::Read(Read::Store),
                StoreFact::Unusable {
                    reason: Reason::ClockSkewed,
                    message,
                } => {
                    let message = format!("{expired_text} by the operator's clock; {message}");
                    let waits = situation(Reason::ClockSkewed, message, Arrival::Unchanged, false);
                    return self.settle(&waits, Some(self.retry()));
                }
                _ => {}
            }
            if let Some(step) = self.expired_too_early(end, &expired_text, credential) {
                return step;
            }
            return self.settle(
                &situation(Reason::Expired, expired_text, Arrival::Unchanged, true),
                None,
            );
        }
        let unknown = |reason, why: &str| {
            let arrival = Arrival::Unknown(reason, why.to_owned());
            let unknown = format!("Valet does not know whether an object was uploaded: {why}");
            situation(Reason::Expired, format!("{expired_text}; {unknown}"), arrival, true)
        };
        if !self.awaits_object() {
            return self.settle(&unknown(Reason::NotObservable, NO_ONE_OBJECT), None);
        }
        if let Some(step) = self.check_last_parts(credential, &expired_text) {
            return step;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(credential, *modified_at)
                    && (self.mismatch(object).is_none() || !self.was_completed()) =>
            {
                match self.mismatch(object) {
                    Some(why) => self.another_object(&why),
                    None => self.completed(credential, object),
                }
            }
            // Valet saw an upload of this grant earlier, and the credential allows several uploads. The last poll
            // found no new upload, or Valet could not poll.
            object if self.was_completed() && !self.can_poll(object) => {
                let last = "status.object describes the last upload that Valet saw";
                let message = format!("{expired_text}; {last}");
                self.settle(&situation(Reason::Completed, message, Arrival::Unchanged, true), None)
            }
            ObjectFact::Unread => match (&self.f.store, self.access()) {
                (StoreFact::Usable(_), Ok(access)) => Step::Read(Read::Object(access)),
                (StoreFact::Unread, _) => Step::Read(Read::Store),
                (StoreFact::Missing, _) => {
                    self.settle(&unknown(Reason::StoreNotFound, "the store was deleted"), None)
                }
                (StoreFact::Unusable { reason, message }, Ok(_))
                    if *reason == Reason::ClockSkewed || self.now < add(end, POLL_PATIENCE) =>
                {
                    let waits =
                        format!("Valet cannot yet check whether the upload has arrived, and tries again: {message}");
                    let s = situation(*reason, format!("{expired_text}; {waits}"), Arrival::Unchanged, false);
                    self.settle(&s, Some(self.retry()))
                }
                (StoreFact::Unusable { reason, message }, Ok(_)) => self.settle(&unknown(*reason, message), None),
                // The access rules do not allow the grant, so Valet sends no request to the store.
                (StoreFact::Usable(_) | StoreFact::Unusable { .. }, Err(refusal)) => {
                    let why = format!(
                        "Valet sent no request to the store, because the store's access rules do not allow the grant: {message}",
                        message = refusal.message
                    );
                    self.settle(&unknown(refusal.reason, &why), None)
                }
            },
            // The grant has no credential and its deadline has passed, but the object is in the store. For example, a
            // user applied an old grant again.
            ObjectFact::Present { object, .. } if credential.is_none() => self.exists_anyway(object, &expired_text),
            ObjectFact::Present { object, .. } if self.write_once() => self.exists_already(object),
            ObjectFact::Absent | ObjectFact::Present { .. } | ObjectFact::Hidden
                if let Some(step) = self.expired_too_early(end, &expired_text, credential) =>
            {
                step
            }
            ObjectFact::ClockSkewed(why) => {
                let waits = format!("Valet cannot yet check whether the upload has arrived, and tries again: {why}");
                self.settle(
                    &situation(
                        Reason::ClockSkewed,
                        format!("{expired_text}; {waits}"),
                        Arrival::Unchanged,
                        false,
                    ),
                    Some(self.retry()),
                )
            }
            ObjectFact::Absent | ObjectFact::Present { .. } => {
                let outcome = self.upload_outcome();
                let message = format!("{expired_text}; {outcome}; create a new grant");
                self.settle(&situation(Reason::ExpiredUnused, message, Arrival::NotYet, true), None)
            }
            ObjectFact::Hidden => self.settle(
                &unknown(
                    Reason::NotObservable,
                    "the store's credentials are not allowed to read the object (the store refused a HEAD request)",
                ),
                None,
            ),
            ObjectFact::Unreachable(why) if self.now < add(end, POLL_PATIENCE) => {
                let waits = format!(
                    "Valet cannot yet check whether the upload has arrived, and tries again: {why}",
                    why = self.unreachable(why)
                );
                self.settle(
                    &situation(
                        Reason::StoreUnreachable,
                        format!("{expired_text}; {waits}"),
                        Arrival::Unchanged,
                        false,
                    ),
                    Some(self.retry()),
                )
            }
            ObjectFact::Unreachable(why) => {
                self.settle(&unknown(Reason::StoreUnreachable, &self.unreachable(why)), None)
            }
        }
    }

    /// Returns a step that waits until the store's clock has reached the expiry of the credential. Until then the store
    /// may still accept the credential, so a final status could be wrong. Returns `None` if the store's clock has
    /// reached the expiry.
    fn expired_too_early(&self, end: Timestamp, expired_text: &str, credential: Option<Lifetime>) -> Option<Step> {
        let (until, why) = self.expires_later_at_store(end)?;
        let message = format!("{expired_text} by the operator's clock; {why}");
        let situation = Situation::of(Reason::ClockSkewed, message, credential);
        Some(self.settle(&situation, Some(until.min(self.retry()))))
    }

    /// Handles a grant that has no credential, because Valet refused the grant until its deadline passed. The final
    /// status contains the message of the refusal. Valet sends no request that the access rules forbid.
    fn refused_until_expiry(&self, expired_text: &str) -> Option<Step> {
        let refusal = match &self.f.store {
            StoreFact::Unread => return Some(Step::Read(Read::Store)),
            StoreFact::Usable(store) => admit(self.g, store).err()?,
            StoreFact::Missing | StoreFact::Unusable { .. } => self.access().err()?,
        };
        // The access rules allow the grant, and only a capability of the store is missing. The object may exist, so
        // Valet polls the store for the object.
        if self.awaits_object() && matches!(self.f.store, StoreFact::Usable(_)) && self.access().is_ok() {
            return None;
        }
        let why = format!(
            "Valet sent no request to the store, because the store does not allow the grant: {message}",
            message = refusal.message
        );
        let situation = Situation {
            arrival: Arrival::Unknown(refusal.reason, why),
            finished: true,
            ..Situation::of(
                Reason::ExpiredUnused,
                format!("{expired_text}: {}", refusal.message),
                None,
            )
        };
        Some(self.settle(&situation, None))
    }
}
