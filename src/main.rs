//! The `valet` program. See [`valet::cli`].

use std::process::ExitCode;

/// The operator allocates and frees many small objects in several threads. This allocator needs less CPU time for this
/// than the allocator of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build();
    match runtime {
        // A task that runs on a thread of the runtime wakes other tasks on the same thread. The main thread would have
        // to wake a different thread for each request and each answer.
        Ok(runtime) => runtime.block_on(async {
            // If the task panics, the message is already on standard error.
            tokio::spawn(valet::cli::main()).await.unwrap_or(ExitCode::FAILURE)
        }),
        Err(error) => {
            eprintln!("valet: cannot start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of threads for tasks. The operator mostly waits for the apiserver. With more threads it needs more CPU time, because the tasks of one
/// request wake each other up on different threads, and more memory, because each thread has its own memory pool.
fn worker_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus / 2).clamp(1, 2)
}
