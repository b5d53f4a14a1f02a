//! HTTP clients for object stores and identity services, DNS lookups, and the egress policy of tenants' stores.

mod address;
pub mod aws;
pub mod client;
mod connections;
mod dns;
mod egress;
mod policy;

pub use egress::{EgressDenied, EgressRules};
pub use policy::EgressPolicy;
