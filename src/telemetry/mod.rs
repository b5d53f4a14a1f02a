//! The windows: logs, metrics, health.

mod http;
mod log;
mod metrics;
mod passing;

pub use http::{Bounds, Health, answer, serve};
pub use log::{LogFormat, init as init_logs};
pub use metrics::{GrantState, Metrics, States, StoreState};
