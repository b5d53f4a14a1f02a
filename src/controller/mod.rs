//! The controllers. A controller reads facts, calls [`crate::core::decide`] and executes the step that this function
//! returns. If the last step contains a time, the controller reconciles the grant again at this time. The module `core`
//! makes all decisions and has no Kubernetes client. Only the module `controller` has a Kubernetes client.

mod apiserver;
mod cached_grant;
mod clock;
mod cluster;
mod controllers;
mod error;
mod grant_watch;
mod grants;
mod history;
mod leader_election;
mod list_gate;
mod local_state;
mod merged_conditions;
mod metrics_snapshot;
#[cfg(test)]
mod mock_apiserver;
mod namespace_limiter;
mod options;
mod probe_cache;
mod quota;
mod record_key;
mod run;
mod secrets;
mod shard_filter;
mod shared_context;
mod signers;
mod silent;
mod slot;
mod status_writer;
mod store_limiter;
mod store_status;
mod stores;
mod strip_metadata;
mod timers;
mod verdicts;
mod watch;

pub use crate::notifications::{NamedSender, SenderScope};
pub use options::{Notifications, Options};
pub use run::run;
