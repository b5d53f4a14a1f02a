//! Provider for Azure Blob Storage. It signs shared access signatures (SAS) for one blob, with the account key or
//! with the operator's identity.

mod capabilities;
mod conformance;
mod credentials;
mod delegation;
mod limits;
mod microsoft;
mod probe;
mod prober;
mod reader;
mod requests;
mod responses;
mod sas;
mod secret;
mod settings;
mod signer;
mod store;
mod tokens;

pub use credentials::Credentials;
pub use sas::SharedKey;
pub use store::AzureBlob;
pub use tokens::{Identity, Source};
