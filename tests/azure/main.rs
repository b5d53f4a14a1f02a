//! Azure Blob Storage: signatures beside Microsoft's own, keys on Azurite, and identities whose servers misbehave.

mod fake;
mod identities;
mod signatures;
