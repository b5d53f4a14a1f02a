//! Selects the provider of a store.

use super::{PROVIDER_FIELDS, provider_settings, settings::Settings};
use crate::api::{Reason, Store};

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
            format!("the store must have exactly one provider; set {PROVIDER_FIELDS}"),
        )),
    }
}

/// Returns the name of the bucket or container. The store's notifications contain this name.
pub fn bucket(store: &impl Store) -> Option<String> {
    let config = store.place()?;
    Some(provider_settings(config).bucket().to_owned())
}
