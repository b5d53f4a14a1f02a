//! Azure Blob Storage: signatures beside Microsoft's own, keys on Azurite, and identities whose servers misbehave.

mod fake;
mod flows;
mod identities;
mod signatures;
#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;
