//! End-to-end tests with the real `valet` program, a real kube-apiserver, controller-manager and S3 server. The tests
//! use kubectl and curl, as users do.
//!
//! All tests of this binary share one control plane and one S3 server. Each test has its own namespace, bucket,
//! ClusterObjectStore and operator.

mod abandoned;
mod addresses;

mod authority;
mod checksums;
mod clients;
mod conformance;
mod faults;
mod foreign;
mod forms;
mod hostile;
mod hostile_store;
mod leader;
mod leaks;
mod lifetimes;
mod limits;
mod metrics;
mod multipart;
mod notifications;
mod offline;
mod policy;
mod polling;
mod proxies;
mod races;
mod records;
mod refused;
mod renewal;
mod restart;
mod rules;
mod scoped;
mod secrets;
mod shards;
mod states;
mod store_conditions;
mod suspended;
mod texts;
mod user_agent;
mod writes;

use valet_test_support::fixtures;
use valet_test_support::world;
