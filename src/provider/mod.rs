//! Providers for object stores, one folder for each provider. The rest of Valet uses a store only through the trait
//! [`Provider`]. The module [`registry`] selects the provider of a store.
//!
//! Apart from the API types, only this file lists the providers. Each provider has three entries in this file: its
//! module, its field in `PROVIDER_FIELDS` and its match arm in `provider_settings`.

pub mod azure;
pub mod gcs;
mod lock;
pub mod s3;

mod abilities;
mod clock;
mod environment;
pub mod findings;
pub mod probe;
pub mod probe_steps;
mod probed;
pub mod registry;
mod secret_data;
mod settings;

use std::sync::Arc;

pub use abilities::{Multipart, ObjectReader, Prober, Provider, Signer};
pub use environment::{Environment, NoLocalCredentials};
pub use probed::{Finding, Probed};
pub use secret_data::{CredentialsError, MAX_SECRET_BYTES};
pub use settings::{Account, CredentialsSource, ProviderSettings, Settings};

use crate::api::ProviderConfig;

/// The names of the fields that select the provider of a store, as text for an error message.
const PROVIDER_FIELDS: &str = "spec.s3, spec.azureBlob or spec.gcs";

/// Returns the settings with the code of their provider.
fn provider_settings(config: ProviderConfig) -> Arc<dyn ProviderSettings> {
    match config {
        ProviderConfig::S3(store) => Arc::new(*store),
        ProviderConfig::AzureBlob(store) => Arc::new(*store),
        ProviderConfig::Gcs(store) => Arc::new(*store),
    }
}
