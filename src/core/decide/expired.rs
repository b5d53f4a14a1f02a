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
    pub(super) fn expired(&self, key: Option<Lifetime>) -> Step {
        if let Some(step) = self.withdraw() {
            return step;
        }
        let deadline = self.deadline().unwrap_or(self.now);
        let end = self.over_at(key).unwrap_or(deadline);
        let said = match key {
            // The credential expired without a renewal. Either the access rules do not allow the renewal, or the
            // renewal would have extended the expiry by too little.
            Some(key)
                if key.is_over(self.now)
                    && self.total_end().is_some_and(|end| end <= deadline)
                    && self.g.terms.renews() =>
            {
                format!("the credential expired at {}; {}", key.expires_at, self.said_of_total())
            }
            Some(key) if key.is_over(self.now) => format!("the credential expired at {}", key.expires_at),
            Some(key) => format!(
                "spec.deadlineTime {deadline} has passed; the Secret was deleted, but copies of the credential work until {end}",
                end = key.expires_at
            ),
            None => format!("spec.deadlineTime {deadline} has passed; no credential was issued"),
        };
        if key.is_none()
            && let Some(step) = self.refused_to_the_end(&said)
        {
            return step;
        }
        let situation = |reason, message, arrival, finished| Situation {
            arrival,
            finished,
            ..Situation::of(reason, message, key)
        };
        if !self.is_upload() {
            match &self.f.store {
                // If the store's clock is behind the operator's clock, the store may still accept the credential. Valet
                // therefore needs the clock difference. The step `Read::Store` reads the store resource and sends no
                // request to the object store.
                StoreFact::Unread if key.is_some() => return Step::Read(Read::Store),
                StoreFact::Unusable {
                    reason: Reason::ClockSkewed,
                    message,
                } => {
                    let message = format!("{said} by the operator's clock; {message}");
                    let waits = situation(Reason::ClockSkewed, message, Arrival::Unchanged, false);
                    return self.settle(&waits, Some(self.retry()));
                }
                _ => {}
            }
            if let Some(step) = self.over_too_early(end, &said, key) {
                return step;
            }
            return self.settle(&situation(Reason::Expired, said, Arrival::Unchanged, true), None);
        }
        let unknown = |reason, why: &str| {
            let arrival = Arrival::Unknown(reason, why.to_owned());
            let unknown = format!("Valet does not know whether an object was uploaded: {why}");
            situation(Reason::Expired, format!("{said}; {unknown}"), arrival, true)
        };
        if !self.awaits_object() {
            return self.settle(&unknown(Reason::NotObservable, NO_ONE_OBJECT), None);
        }
        if let Some(step) = self.last_parts(key, &said) {
            return step;
        }
        match &self.f.object {
            ObjectFact::Present { object, modified_at }
                if self.is_newer(key, *modified_at) && (self.mismatch(object).is_none() || !self.was_seen()) =>
            {
                match self.mismatch(object) {
                    Some(why) => self.another_object(&why),
                    None => self.completed(key, object),
                }
            }
            // Valet saw an upload of this grant earlier, and the credential allows several uploads. The last poll
            // found no new upload, or Valet could not poll.
            object if self.was_seen() && !self.can_look(object) => {
                let last = "status.object describes the last upload that Valet saw";
                let message = format!("{said}; {last}");
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
                    let waits = format!("Valet waits for a last check of the store: {message}");
                    let s = situation(*reason, format!("{said}; {waits}"), Arrival::Unchanged, false);
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
            ObjectFact::Present { object, .. } if key.is_none() => self.there_anyway(object, &said),
            ObjectFact::Present { object, .. } if self.write_once() => self.exists_already(object),
            ObjectFact::Absent | ObjectFact::Present { .. } | ObjectFact::Hidden
                if let Some(step) = self.over_too_early(end, &said, key) =>
            {
                step
            }
            ObjectFact::ClockSkewed(why) => {
                let waits = format!("Valet waits for a last check whether the upload has arrived: {why}");
                self.settle(
                    &situation(
                        Reason::ClockSkewed,
                        format!("{said}; {waits}"),
                        Arrival::Unchanged,
                        false,
                    ),
                    Some(self.retry()),
                )
            }
            ObjectFact::Absent | ObjectFact::Present { .. } => {
                let outcome = self.what_came();
                let message = format!("{said}; {outcome}; create a new grant");
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
                    "Valet waits for a last check whether the upload has arrived: {why}",
                    why = self.unreachable(why)
                );
                self.settle(
                    &situation(
                        Reason::StoreUnreachable,
                        format!("{said}; {waits}"),
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
    fn over_too_early(&self, end: Timestamp, said: &str, key: Option<Lifetime>) -> Option<Step> {
        let (until, why) = self.ends_later_at_store(end)?;
        let message = format!("{said} by the operator's clock; {why}");
        let situation = Situation::of(Reason::ClockSkewed, message, key);
        Some(self.settle(&situation, Some(until.min(self.retry()))))
    }

    /// Handles a grant that Valet refused until its deadline, so that the grant never had a credential. The final
    /// status contains the message of this refusal. Valet sends no request that the access rules forbid.
    fn refused_to_the_end(&self, said: &str) -> Option<Step> {
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
            ..Situation::of(Reason::ExpiredUnused, format!("{said}: {}", refusal.message), None)
        };
        Some(self.settle(&situation, None))
    }
}
