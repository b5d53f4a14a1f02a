//! Providers for object stores, one folder for each provider. The rest of Valet uses a store only through the trait
//! [`Provider`]. The module [`registry`] selects the provider of a store.

mod abilities;
pub mod azure;
mod clock;
mod environment;
mod findings;
pub mod gcs;
mod probe;
mod probe_steps;
mod probed;
pub mod registry;
pub mod s3;
mod secret_data;
mod settings;

pub use abilities::{Multipart, ObjectReader, Prober, Provider, Signer};
pub use environment::{Environment, NotAtHand};
pub use probed::{Finding, Probed};
pub use secret_data::{CredentialsError, MAX_SECRET_BYTES};
pub use settings::{Account, CredentialsSource, ProviderSettings, Settings};
