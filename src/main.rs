//! The `valet` program. See [`valet::cli`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    valet::cli::main().await
}
