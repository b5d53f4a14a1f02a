//! HTTP clients for object stores and identity services, proxies, and the egress policy that protects private networks.

pub mod aws;
pub mod client;
mod dns;
mod egress;

pub use egress::{Inward, Outward};
