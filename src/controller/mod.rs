//! The hands: the only folder with a Kubernetes client. It reads facts, takes the steps that the judgement names,
//! and wakes at the instants that it names. It decides nothing.

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
mod notifications;
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

pub use notifications::{NamedSender, SenderScope};
pub use options::{Notifications, Options};
pub use run::run;
