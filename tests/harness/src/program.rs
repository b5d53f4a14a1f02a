//! What the programs of the harness have in common: how they begin and end, and how they are told numbers.

use std::{
    env,
    fmt::Display,
    process::{ExitCode, Termination},
    str::FromStr,
};

use crate::{Context, Result, process::exit_on_interrupt};

/// The `main` of a program: Ctrl-C ends it in order, an error is printed behind the program's name and makes the status 1.
pub fn run<T: Termination>(name: &str, work: impl FnOnce() -> Result<T>) -> ExitCode {
    exit_on_interrupt();
    match work() {
        Ok(end) => end.report(),
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The number in an environment variable, `default` if there is no such variable.
///
/// # Errors
/// If something else is in it.
pub fn number<T: FromStr<Err: Display>>(variable: &str, default: T) -> Result<T> {
    match env::var(variable) {
        Ok(text) => text.parse().context(format_args!("{variable} must be a number")),
        Err(_) => Ok(default),
    }
}
