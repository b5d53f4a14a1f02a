//! Benchmark of load. It compares the operator with a bare client in the same run. The bare client sends the same write
//! requests as the operator and makes no decisions, so its speed is the speed of the API server.
//!
//! ```text
//! load
//! ```
//! The program starts a control plane, an S3 server and one operator for all namespaces. It measures bursts of grants,
//! credentials that expire in the same second, and a restart of the operator. It repeats the measurements in rounds,
//! and prints the median of the rounds. The last line of the output contains the ratios.
//!
//! VALET_BIN names the operator program. `BENCH=quick` runs one round with few grants. BENCH_ROUNDS sets the number of
//! rounds (default 5), BENCH_BURST the number of grants in a burst (default 1000), and BENCH_LIVE the number of live
//! grants at the restart (default 10,000). BENCH_ONLY names the scenarios to run: burst, expiry, restart, separated by
//! commas.

mod api;
mod bare;
mod burst;
mod expiry;
mod process;
mod report;
mod restart;

use std::{env, process::ExitCode};

use serde_json::json;
use valet_harness::{Context, Operator, OperatorOptions, Result, Scene, program};

use crate::{api::Cluster, report::Report};

/// The number of concurrent requests of every client in this program.
pub const WORKERS: usize = 32;

/// The namespace, the bucket and the store of the grants.
pub const NAMESPACE: &str = "bench";

/// The sizes of the measurements.
pub struct Sizes {
    /// Number of rounds of each measurement.
    pub rounds: usize,
    /// Number of grants in one burst.
    pub burst: usize,
    /// Number of grants whose credentials expire in the same second.
    pub expiring: usize,
    /// Number of live grants when the operator restarts.
    pub live: usize,
}

/// The servers of the benchmark.
pub struct Bench {
    // The fields are dropped in this order: clients before servers.
    pub operator: Operator,
    pub cluster: Cluster,
    pub scene: Scene,
    pub sizes: Sizes,
    pub report: Report,
}

fn main() -> ExitCode {
    program::run("load", || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(run())
    })
}

async fn run() -> Result<()> {
    let sizes = if env::var("BENCH").is_ok_and(|mode| mode == "quick") {
        Sizes {
            rounds: 1,
            burst: 500,
            expiring: 300,
            live: 500,
        }
    } else {
        Sizes {
            rounds: program::number("BENCH_ROUNDS", 5)? as usize,
            burst: program::number("BENCH_BURST", 1000)? as usize,
            expiring: 2000,
            live: program::number("BENCH_LIVE", 10_000)? as usize,
        }
    };
    let rule = json!({
        "operations": ["Upload", "Download"], "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 7200,
    });
    let scene = Scene::set(NAMESPACE, rule)?;
    let operator = scene.operator(&OperatorOptions::default())?;
    scene
        .plane
        .kubectl(&["wait", "--for=condition=Ready", "costore/bench", "--timeout=30s"])?;
    let cluster = Cluster::connect(&scene).await?;
    let mut bench = Bench {
        operator,
        cluster,
        scene,
        sizes,
        report: Report::default(),
    };
    bench.prepare().await?;
    let chosen = env::var("BENCH_ONLY").unwrap_or_default();
    let is_chosen = |scenario: &str| chosen.is_empty() || chosen.split(',').any(|one| one == scenario);
    for round in 0..bench.sizes.rounds {
        if is_chosen("burst") {
            bench.burst(round).await?;
        }
        if is_chosen("expiry") {
            bench.expiry(round).await?;
        }
    }
    if is_chosen("restart") {
        bench.restart().await?;
    }
    bench.report.print();
    Ok(())
}
