//! Tests of the Helm chart: what helm renders, and how a real apiserver treats it. The operator runs with the rights
//! of the chart, and tests try what its account may not do.

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
mod notifications;
mod prerequisites;
mod release;
mod rendered;
mod scraped;
mod users;
mod values;
