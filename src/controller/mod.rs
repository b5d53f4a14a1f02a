//! The controllers. They read facts, execute the steps that [`crate::core::decide`] returns, and reconcile again at
//! the times that it returns. All decisions are in `core`. No other module has a Kubernetes client.

mod apiserver;
mod clock;
mod cluster;
mod error;
mod grants;
mod history;
mod kinds;
mod lease;
mod light;
mod memory;
mod options;
mod places;
mod record_key;
mod requests;
mod run;
mod secrets;
mod signers;
mod silent;
mod slot;
mod states;
mod store_status;
mod stores;
mod trial;
mod turns;
mod verdicts;
mod voices;
mod watch;

pub use crate::notifications::{NamedSender, SenderScope};
pub use options::{Notifications, Options};
pub use run::run;
