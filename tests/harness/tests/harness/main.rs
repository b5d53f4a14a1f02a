//! Tests of the harness: its servers are real, and nothing is left after a run.

mod cluster;
mod processes;
mod store;
mod verifiers;

use std::{process::Command, sync::LazyLock, time::Duration};

use valet_harness::{S3Server, Tools, process};

/// The time limit for everything without a timeout of its own. It is long enough for a busy machine.
const SOON: Duration = Duration::from_secs(60);

static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::locate().unwrap());

static STORE: LazyLock<S3Server> = LazyLock::new(|| {
    let store = S3Server::start(&TOOLS).unwrap();
    println!("S3 server started in {:?}", store.started_in());
    store
});

/// Runs curl. Returns the status and the body. For an S3 error, returns its code instead of the body.
fn curl(args: &[&str]) -> (u16, String) {
    let mut command = process::clean(Command::new("curl"));
    command
        .args(["--silent", "--show-error", "--write-out", "\n%{http_code}"])
        .args(args);
    let text = process::run_ok(command, &[], SOON).unwrap().text();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (status.parse().unwrap(), code.map_or(body, |(code, _)| code).to_owned())
}
