//! Checks if a store has changed since Valet cached its data.

use std::sync::Arc;

use super::{Stores, connection::CachedStore};
use crate::{
    api::StoreRef,
    controller::error::Error,
    core::{StoreView, store_id},
    provider::Provider,
};

impl Stores {
    /// Returns true if the store still has this provider, and if the access rules and the namespace labels in `view`
    /// are still current. `namespace` is the namespace of the grant. The method uses cached data if the data is younger
    /// than [`FRESHNESS`](crate::controller::slot::FRESHNESS).
    ///
    /// # Errors
    ///
    /// Returns an error if a call to the apiserver fails.
    pub async fn is_current(
        &self,
        store: &StoreRef,
        namespace: &str,
        view: &StoreView,
        provider: &Arc<dyn Provider>,
    ) -> Result<bool, Error> {
        let CachedStore::Usable(now) = self.known(&store_id(store, namespace)).await? else {
            return Ok(false);
        };
        Ok(Arc::ptr_eq(&now.provider, provider)
            && now.rules == view.rules
            && self.labels.for_rules(&now.rules, namespace).await? == view.namespace_labels)
    }
}
