//! Handles a store whose clock differs from the operator's clock.

use jiff::Timestamp;

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{
        facts::{StoreFact, StoreView},
        lifetime::{Lifetime, add},
        skew::{is_skewed, is_too_much, skewed},
    },
};

impl Evaluator<'_> {
    /// Returns a reason and a message for the condition if Valet cannot sign a URL with this lifetime, because the
    /// clocks of the store and the operator differ too much.
    pub(super) fn clock_trouble(&self, store: &StoreView, lifetime: Lifetime) -> Option<(Reason, String)> {
        let skew = store.skew.filter(|skew| is_too_much(*skew, lifetime))?;
        let effect = "a URL signed now would become valid and expire at other times than the grant specifies";
        Some((Reason::ClockSkewed, format!("{skew}; {effect}", skew = skewed(skew))))
    }

    /// Returns the time at which the store's clock reaches `end`, and a message. Returns `None` if the clocks agree,
    /// or if this time has passed.
    ///
    /// If the operator's clock has already passed `end` but the store's clock has not, one of the clocks is wrong.
    /// Valet then waits for the store's clock, because Valet cannot undo the final status of a grant.
    pub(super) fn expires_later_at_store(&self, end: Timestamp) -> Option<(Timestamp, String)> {
        let StoreFact::Usable(store) = &self.f.store else {
            return None;
        };
        let skew = store.skew.filter(|skew| is_skewed(Some(*skew)))?;
        let until = add(end, -skew);
        (until > self.now).then(|| (until, skewed(skew)))
    }
}
