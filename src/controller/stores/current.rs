//! Whether what was read of a store is still so.

use std::sync::Arc;

use super::{Known, Stores};
use crate::{
    api::StoreRef,
    controller::error::Error,
    core::{StoreView, store_id},
    provider::Provider,
};

impl Stores {
    /// Whether a grant in `namespace` would find the store as `view` says, with the same provider and the same rules. What was
    /// read within [`FRESHNESS`](crate::controller::slot::FRESHNESS) counts, so this takes a read only where more time has passed.
    ///
    /// # Errors
    /// Only if the apiserver cannot be asked.
    pub async fn is_current(
        &self,
        store: &StoreRef,
        namespace: &str,
        view: &StoreView,
        provider: &Arc<dyn Provider>,
    ) -> Result<bool, Error> {
        let Known::Usable(now) = self.known(&store_id(store, namespace)).await? else {
            return Ok(false);
        };
        Ok(Arc::ptr_eq(&now.provider, provider)
            && now.rules == view.rules
            && self.labels.for_rules(&now.rules, namespace).await? == view.namespace_labels)
    }
}
