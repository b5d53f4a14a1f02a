//! Common functions of the programs in the harness: the main function, and numbers in environment variables.

use std::{
    env,
    fmt::Display,
    process::{ExitCode, Termination},
    str::FromStr,
};

use crate::{Context, Result, process::exit_on_interrupt};

/// The main function of a program: Ctrl-C stops it in an orderly way. An error is printed with the name of the
/// program, and the exit status is 1.
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

/// Returns the number in an environment variable, or `default` if the variable is not set.
///
/// # Errors
/// Returns an error if the variable does not contain a number.
pub fn number<T: FromStr<Err: Display>>(variable: &str, default: T) -> Result<T> {
    match env::var(variable) {
        Ok(text) => text.parse().context(format_args!("{variable} must be a number")),
        Err(_) => Ok(default),
    }
}
