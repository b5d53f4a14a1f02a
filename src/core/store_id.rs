//! Identifies a store within the cluster.

use crate::api::{StoreKind, StoreRef};

/// The kind, namespace and name of a store. The namespace is empty for a ClusterObjectStore.
pub type StoreId = (StoreKind, String, String);

/// Returns the identity of the store that a grant in `namespace` refers to.
pub fn store_id(store: &StoreRef, namespace: &str) -> StoreId {
    let namespace = match store.kind {
        StoreKind::ObjectStore => namespace.to_owned(),
        StoreKind::ClusterObjectStore => String::new(),
    };
    (store.kind, namespace, store.name.clone())
}
