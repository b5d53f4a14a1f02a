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
/// The AWS SDK prints strings to sign and, at WARN, whole answers of credential services; HTTP libraries print
/// headers and bodies, and the Kubernetes client prints a whole reply that it cannot parse. What went wrong there is
/// said by our own lines and by conditions, so only our own code and the watch machinery may speak in detail.
fn is_discreet(meta: &Metadata<'_>) -> bool {
    may_speak(meta.target(), *meta.level())
}

fn may_speak(target: &str, level: Level) -> bool {
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
    fn only_what_is_known_to_be_discreet_may_speak() {
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
            assert_eq!(may_speak(target, level), speaks, "{target} {level}");
        }
    }
}
