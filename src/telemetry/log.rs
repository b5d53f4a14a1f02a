use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Human,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Starts logging to standard error. `filter` is a log level, or a list of directives for tracing's `EnvFilter`.
///
/// # Errors
/// Returns a message if the filter is invalid.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        format!("--log-level '{filter}' is neither a level (error, warn, info, debug, trace) nor a valid filter: {e}")
    })?;
    let discreet = filter_fn(logs_no_secrets);
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

/// Returns true if a log line never contains secrets, at any log level.
///
/// Several libraries log secrets:
///
/// - The AWS SDK logs strings to sign. At level WARN it also logs whole answers of credential services.
/// - HTTP libraries log headers and bodies.
/// - The Kubernetes client logs a whole answer if it cannot parse this answer.
///
/// Therefore only Valet and `kube_runtime` are allowed to log details. If a library fails, Valet reports the failure
/// in its log lines and conditions.
///
/// The function also disables the spans of `kube_runtime`. They would repeat the kind, namespace and name of the grant in
/// each line, and would need CPU time in each reconcile.
fn logs_no_secrets(meta: &Metadata<'_>) -> bool {
    let is_span_of_reconcile = meta.is_span() && meta.target().starts_with("kube_runtime");
    !is_span_of_reconcile && is_enabled(meta.target(), *meta.level())
}

fn is_enabled(target: &str, level: Level) -> bool {
    let of = |module: &str| {
        target
            .strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if of("valet") || of("kube_runtime") {
        return true;
    }
    level <= Level::INFO && !target.starts_with("aws_") && !of("kube_client::client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_log_targets_that_log_no_secrets_are_enabled() {
        for (target, level, speaks) in [
            ("valet::controller::grants", Level::TRACE, true),
            ("valet", Level::DEBUG, true),
            ("kube_runtime::controller", Level::DEBUG, true),
            ("valetta", Level::DEBUG, false),
            ("kube_client::client", Level::WARN, false),
            ("kube_client::config", Level::WARN, true),
            ("aws_config::imds::client", Level::WARN, false),
            ("aws_config::meta::credentials::chain", Level::ERROR, false),
            ("aws_sigv4::http_request::sign", Level::TRACE, false),
            ("hyper::client", Level::DEBUG, false),
            ("rustls", Level::INFO, true),
        ] {
            assert_eq!(is_enabled(target, level), speaks, "{target} {level}");
        }
    }
}
