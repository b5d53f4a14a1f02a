//! Names a store within the cluster.

use crate::api::{StoreKind, StoreRef};

/// Names a store; the namespace is empty for a ClusterObjectStore.
pub type StoreId = (StoreKind, String, String);

/// Names the store that a grant in `namespace` means.
pub fn store_id(store: &StoreRef, namespace: &str) -> StoreId {
    let namespace = match store.kind {
        StoreKind::ObjectStore => namespace.to_owned(),
        StoreKind::ClusterObjectStore => String::new(),
    };
    (store.kind, namespace, store.name.clone())
}
