//! Caches the labels of namespaces, which access rules can select by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::PartialObjectMeta};

use super::lock;
use crate::{
    api::ClusterAccessRule,
    controller::{
        error::{Error, call},
        slot::Slot,
    },
};

/// The labels of one namespace.
pub type Labels = Arc<BTreeMap<String, String>>;

/// A cache of namespace labels, each kept for a short time.
pub struct NamespaceLabels {
    client: Client,
    known: Mutex<HashMap<String, Arc<Slot<Labels>>>>,
}

impl NamespaceLabels {
    /// Uses the given client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// The namespace's labels if one of the access rules has a selector; otherwise an empty map without a request.
    ///
    /// # Errors
    /// If the labels cannot be read.
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

    /// Marks the cached labels as stale.
    pub fn changed(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).get(namespace) {
            slot.changed();
        }
    }

    /// Removes the entry of a deleted namespace. A new namespace with the same name starts without cached labels.
    pub fn gone(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).remove(namespace) {
            slot.changed();
        }
    }
}
