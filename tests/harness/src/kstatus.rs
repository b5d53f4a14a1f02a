//! Computes how Helm (`--wait`), Argo CD, Flux and kpt interpret the status of an object.

use std::time::Duration;

use serde_json::Value;

use crate::{Context, Result, Tools, process};

/// The status that the library kstatus computes for an object (InProgress, Current, Failed, Terminating, NotFound,
/// Unknown) and its message.
///
/// # Errors
/// Returns an error if the program fails because kstatus cannot read the object.
pub fn kstatus(tools: &Tools, object: &Value) -> Result<(String, String)> {
    let output = process::run_ok(
        tools.command("kstatus"),
        object.to_string().as_bytes(),
        Duration::from_secs(20),
    )?;
    let text = output.text();
    let (status, message) = text
        .trim_end()
        .split_once('\t')
        .context(format_args!("kstatus printed {text:?}"))?;
    Ok((status.to_owned(), message.to_owned()))
}
