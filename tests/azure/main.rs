//! Tests of Azure Blob Storage: signatures compared with Microsoft's own, credentials on Azurite, and identities
//! whose servers fail.

#[path = "../common/access.rs"]
mod access;
mod conformance;
mod container;
mod delegation;
mod flows;
mod identities;
mod notifications;
mod proxies;
mod signatures;
#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;
