//! Recognizes the endpoints of Google. Google's documentation describes only the behavior of these endpoints. A store
//! at any other endpoint can behave differently, even if it has the same API.

use crate::{api::store::gcs::GcsStore, net::client::is_of};

/// The default endpoint. Valet uses it if the store does not set `spec.gcs.endpoint`.
pub const ENDPOINT: &str = "https://storage.googleapis.com";
const DOMAINS: &[&str] = &[".googleapis.com"];

/// Returns true if the operator's endpoint and the workloads' endpoint both belong to Google.
pub fn is_store(store: &GcsStore) -> bool {
    [&store.endpoint, &store.public_endpoint]
        .into_iter()
        .flatten()
        .all(|endpoint| is_endpoint(endpoint))
}

/// Returns true if the operator's endpoint belongs to Google.
pub fn is_own_endpoint(store: &GcsStore) -> bool {
    store.endpoint.as_deref().is_none_or(is_endpoint)
}

/// Returns true if the address belongs to Google.
pub fn is_endpoint(address: &str) -> bool {
    is_of(address, DOMAINS)
}
