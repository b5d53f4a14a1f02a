//! Tests of Azure Blob Storage: signatures compared with Microsoft's own, credentials on Azurite, and identities
//! whose servers fail.

mod conformance;
mod container;
mod delegation;
mod flows;
mod identities;
mod notifications;
mod proxies;
mod signatures;

use valet_test_support::access;
use valet_test_support::world;
