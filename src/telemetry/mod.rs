//! Logs, metrics and health probes.

mod contact;
mod expiring_counters;
mod http;
mod log;
mod metrics;
mod progress;
mod repeats;

pub use contact::{Change, Contact};
pub use http::{Bounds, Health, answer, serve};
pub use log::{LogFormat, init as init_logs};
pub use metrics::{GrantState, Metrics, States, StoreState};
pub use progress::Progress;
pub use repeats::REPEATS;
pub(crate) use repeats::warn_once;
