//! Selects the provider of a store. This is the only list of providers outside the API.

use std::sync::Arc;

use super::settings::{ProviderSettings, Settings};
use crate::api::{ProviderConfig, Reason, Store};

/// Returns the settings with the code of their provider.
fn provider_settings(config: ProviderConfig) -> Arc<dyn ProviderSettings> {
    match config {
        ProviderConfig::S3(store) => Arc::new(*store),
        ProviderConfig::AzureBlob(store) => Arc::new(*store),
        ProviderConfig::Gcs(store) => Arc::new(*store),
    }
}

/// Validates a store's spec, without its credentials.
///
/// # Errors
/// Returns the reason for the store's condition, and a message to the store's owner.
pub fn settings(store: &impl Store) -> Result<Settings, (Reason, String)> {
    store
        .check()
        .map_err(|rules| (Reason::InvalidStore, rules.join("; ")))?;
    match store.place() {
        Some(config) => Ok(Settings(provider_settings(config))),
        None => Err((
            Reason::InvalidStore,
            "the store must have exactly one provider; set spec.s3, spec.azureBlob or spec.gcs".into(),
        )),
    }
}

/// Returns the name of the bucket or container. The store's notifications contain this name.
pub fn bucket(store: &impl Store) -> Option<String> {
    let config = store.place()?;
    Some(provider_settings(config).bucket().to_owned())
}
