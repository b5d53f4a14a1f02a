//! Tests of the Helm chart: what helm renders, and how a real apiserver treats it. The operator runs with the rights
//! of the chart, and tests try what its account may not do.

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
mod shards;
mod users;
mod values;

use valet_test_support::world;
