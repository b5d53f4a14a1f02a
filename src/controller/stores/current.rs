//! Checks whether the cached data of a store is still current.

use std::sync::Arc;

use super::{Known, Stores};
use crate::{
    api::StoreRef,
    controller::error::Error,
    core::{StoreView, store_id},
    provider::Provider,
};

impl Stores {
    /// Whether a grant in `namespace` would find the same provider, access rules and labels as in `view`. Data that
    /// is younger than [`FRESHNESS`](crate::controller::slot::FRESHNESS) is not read again.
    ///
    /// # Errors
    /// If a call to the apiserver fails.
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
