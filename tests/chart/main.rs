//! The chart: what helm makes of it, and what a real apiserver makes of that. The operator runs with the rights that the
//! chart gives it, and its account is tried against what it may not do.

#[allow(dead_code, reason = "the world is shared with tests/cluster, and each uses its part")]
#[path = "../cluster/world.rs"]
mod world;

mod account;
mod confined;
mod docs;
mod forged;
mod gitops;
mod helm;
mod install;
mod machine;
mod notified;
mod people;
mod release;
mod rendered;
mod scraped;
mod values;
