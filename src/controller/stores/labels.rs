//! Namespaces' labels, by which rules may choose.

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

/// Labels of one namespace.
pub type Labels = Arc<BTreeMap<String, String>>;

/// The labels of namespaces, kept for a moment.
pub struct NamespaceLabels {
    client: Client,
    known: Mutex<HashMap<String, Arc<Slot<Labels>>>>,
}

impl NamespaceLabels {
    /// Reads with this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// The namespace's labels, if one of the rules chooses by them; otherwise none, and nothing is read.
    ///
    /// # Errors
    /// If they cannot be read.
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

    /// They have changed: the next reader reads them.
    pub fn changed(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).get(namespace) {
            slot.changed();
        }
    }

    /// The namespace is gone: another one of its name is another one.
    pub fn gone(&self, namespace: &str) {
        if let Some(slot) = lock(&self.known).remove(namespace) {
            slot.changed();
        }
    }
}
