//! The `valet` program. See [`valet::cli`].

use std::process::ExitCode;

/// The operator allocates and frees many small objects in several threads. This allocator needs less CPU time for this
/// than the allocator of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    valet::cli::main().await
}
