//! Decides which requests Valet may send to the store now.

use super::evaluator::Evaluator;
use crate::{
    api::Reason,
    core::{
        facts::{ObjectFact, RulesView, StoreFact, StoreView},
        policy::{Access, still_allowed},
        refusal::Refusal,
    },
};

impl Evaluator<'_> {
    pub(super) fn unreachable(&self, why: &str) -> String {
        format!("{} does not answer correctly: {why}", self.g.terms.store_ref)
    }

    /// Checks the grant against the access rules of a store that Valet cannot use now. Returns a refusal if the access
    /// rules do not allow the grant. Returns `None` if they allow the grant, or if Valet does not know the access
    /// rules.
    pub(super) fn forbidden(&self) -> Option<Refusal> {
        let rules = self.f.rules.as_ref()?;
        still_allowed(self.g, rules).err()
    }

    /// Returns the permission to send requests about the grant to the store, according to the current access rules.
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] if the access rules refuse the grant. If the store was not read yet or does not exist,
    /// no access rules are known, and Valet sends no requests.
    pub(super) fn access(&self) -> Result<Access, Refusal> {
        match (&self.f.store, &self.f.rules) {
            (StoreFact::Usable(store), _) => {
                let rules = RulesView {
                    rules: store.rules.clone(),
                    namespace_labels: store.namespace_labels.clone(),
                };
                still_allowed(self.g, &rules)
            }
            (StoreFact::Unusable { .. }, Some(rules)) => still_allowed(self.g, rules),
            (StoreFact::Unusable { reason, message }, None) => Err(Refusal::new(*reason, message.clone())),
            (StoreFact::Missing | StoreFact::Unread, _) => {
                let message = format!("{} does not exist", self.g.terms.store_ref);
                Err(Refusal::new(Reason::StoreNotFound, message))
            }
        }
    }

    /// Returns a reason and a message if Valet does not know yet which constraints the store enforces. In this case
    /// Valet cannot sign an upload credential.
    pub(super) fn not_probed(&self, store: &StoreView) -> Option<(Reason, String)> {
        let not_probed = store.not_probed.as_ref();
        let not_probed = not_probed.filter(|u| self.is_upload() && (!u.only_write_once || self.write_once()))?;
        let why = match not_probed.reason {
            Reason::ClockSkewed => not_probed.why.clone(),
            _ => self.unreachable(&not_probed.why),
        };
        let effect = "Valet does not know yet which constraints the store enforces, so it signs no upload credential";
        Some((not_probed.reason, format!("{why}; {effect}")))
    }

    /// Returns true if Valet can poll the store for the object. Returns false in three cases: Valet has already read
    /// the object, Valet cannot use the store, or the access rules refuse the grant.
    pub(super) fn can_poll(&self, object: &ObjectFact) -> bool {
        let can_ask = match &self.f.store {
            StoreFact::Unread => true,
            StoreFact::Usable(_) => self.access().is_ok(),
            StoreFact::Missing | StoreFact::Unusable { .. } => false,
        };
        matches!(object, ObjectFact::Unread) && can_ask
    }
}
