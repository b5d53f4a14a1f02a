//! A complete provider for an object store in memory. It exists only for the tests: it shows that a provider needs
//! only the public parts of `valet`.
//!
//! [`server`] is the object store, and [`objects`] contains its buckets. The provider and the server share only the
//! signature scheme ([`scheme`]). The other files are the provider, with one file for each ability.

mod capabilities;
pub mod config;
mod conformance;
pub mod form;
mod multipart;
pub mod objects;
mod prober;
mod reader;
pub mod scheme;
pub mod server;
mod settings;
mod signer;
mod store;
