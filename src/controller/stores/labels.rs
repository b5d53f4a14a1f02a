//! Caches the labels of namespaces, because access rules can select namespaces by label.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::PartialObjectMeta};

use crate::{
    api::ClusterAccessRule,
    controller::{
        error::{Error, call},
        slot::{Slot, lock},
    },
};

pub type Labels = Arc<BTreeMap<String, String>>;

/// A cache of namespace labels. An entry is valid for a short time.
pub struct NamespaceLabels {
    client: Client,
    known: Mutex<HashMap<String, Arc<Slot<Labels>>>>,
}

impl NamespaceLabels {
    /// Creates an empty cache that reads labels with the given client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// Returns the namespace's labels if an access rule selects namespaces by label. Otherwise returns an empty map and
    /// sends no request to the apiserver.
    ///
    /// # Errors
    ///
    /// Returns an error if the labels cannot be read.
    pub async fn for_rules(&self, rules: &[ClusterAccessRule], namespace: &str) -> Result<Labels, Error> {
        if rules.iter().all(|r| r.namespaces.selector.is_none()) {
            return Ok(Arc::default());
        }
        let slot = lock(&self.known).entry(namespace.to_owned()).or_default().clone();
        slot.get(|_| async move {
            let api: Api<Namespace> = Api::all(self.client.clone());
            let found: PartialObjectMeta<Namespace> =
                call("reading a namespace", api.get_metadata(namespace)).await?;
            Ok(Arc::new(found.metadata.labels.unwrap_or_default()))
        })
        .await
    }

    /// Marks the cached labels of the namespace as stale.
    pub fn changed(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).get(namespace) {
            slot.changed();
        }
    }

    /// Removes the cached labels of a deleted namespace. If somebody creates a namespace with this name again, Valet
    /// therefore reads the labels of the new namespace.
    pub fn gone(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).remove(namespace) {
            slot.changed();
        }
    }
}
