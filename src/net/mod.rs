//! HTTP clients for object stores and identity services, DNS lookups, and the egress policy of tenants' stores.

pub mod aws;
pub mod client;
mod dns;
mod egress;

pub use egress::{EgressDenied, EgressPolicy};
