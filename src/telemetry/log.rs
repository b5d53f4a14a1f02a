use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line, for collectors.
    Json,
}

/// Starts logging to standard error. `filter` is a level, or directives as tracing's `EnvFilter` takes them.
///
/// # Errors
/// A sentence if the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        format!("--log-level '{filter}' is not a level (error, warn, info, debug, trace) nor a filter: {e}")
    })?;
    let discreet = filter_fn(is_discreet);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Human => registry.with(lines.with_filter(discreet)).init(),
        LogFormat::Json => registry.with(lines.json().with_filter(discreet)).init(),
    }
    Ok(())
}

/// Whether a line can be let out whatever level was asked for.
///
/// The AWS SDK prints strings to sign, HTTP libraries print headers and bodies, and the Kubernetes client prints a
/// whole reply that it cannot parse, at WARN. So only our own code and the watch machinery may speak in detail.
fn is_discreet(meta: &Metadata<'_>) -> bool {
    let target = meta.target();
    if target == "valet" || target.starts_with("valet::") || target.starts_with("kube_runtime") {
        return true;
    }
    *meta.level() <= Level::INFO && !target.starts_with("kube_client::client")
}
