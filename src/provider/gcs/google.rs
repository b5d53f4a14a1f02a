//! Recognizes the endpoints of Google. Valet relies on Google's documentation only for these endpoints.

use crate::{api::store::gcs::GcsStore, net::client::is_of};

/// The endpoint of a store that does not set an endpoint.
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
