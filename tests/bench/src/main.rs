//! Benchmark of load. It compares the operator with a bare client in the same run. The bare client sends the same write
//! requests as the operator and makes no decisions, so its speed is the speed of the API server. The benchmark also
//! compares the operator with a simple operator, as a team would write it by hand.
//!
//! ```text
//! load
//! ```
//! The program starts a control plane, an S3 server and one operator for all namespaces. In each round it measures
//! bursts of grants, grants at a steady rate, a flood in one namespace, and credentials that expire in the same second.
//! Then it measures once: renewals, uploads that nobody sends, a burst with two shards, and 10,000 and 100,000 live
//! grants (memory, idle time, restart). It prints each result at once, and at the end a table of all results. The last line of the output contains
//! the ratios.
//!
//! VALET_BIN names the operator program. `BENCH=quick` runs one round with few grants. BENCH_ROUNDS sets the number of
//! rounds (default 5), BENCH_BURST the number of grants in a burst (default 1000), BENCH_LIVE the number of live grants
//! at the restart (default 10,000), and BENCH_HUGE the number of grants in the last measurement (default 100,000).
//! BENCH_ONLY names the measurements to run, separated by commas: burst, steady, flood, expiry, renewal, pending, shards,
//! live, huge.

mod api;
mod bare;
mod burst;
mod expiry;
mod grants;
mod live;
mod report;
mod shards;
mod simple;
mod steady;
mod usage;

use std::{env, process::ExitCode, time::Duration};

use serde_json::json;
use valet_harness::{Context, Operator, OperatorOptions, Result, Scene, program};

use crate::{api::Cluster, burst::BURSTS, report::Report};

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
    /// Number of grants at a steady rate.
    pub steady: usize,
    /// Number of grants of a namespace that creates as many grants as it can.
    pub flood: usize,
    /// Number of uploads that nobody sends, and of renewals.
    pub pending: usize,
    /// Number of live grants when the operator restarts.
    pub live: usize,
    /// The time in which an idle operator is observed.
    pub idle: Duration,
    /// Number of live grants in the last measurement. 0 skips this measurement.
    pub huge: usize,
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
            .block_on(async {
                match env::args().nth(1).as_deref() {
                    Some(simple::VERB) => simple::run().await,
                    _ => run().await,
                }
            })
    })
}

async fn run() -> Result<()> {
    let sizes = if env::var("BENCH").is_ok_and(|mode| mode == "quick") {
        Sizes {
            rounds: 1,
            burst: 300,
            expiring: 300,
            steady: 50,
            flood: 300,
            pending: 0,
            live: 500,
            idle: Duration::from_secs(15),
            huge: 0,
        }
    } else {
        Sizes {
            rounds: program::number("BENCH_ROUNDS", 5)?,
            burst: program::number("BENCH_BURST", 1000)?,
            expiring: 2000,
            steady: 150,
            flood: 2000,
            pending: 1000,
            live: program::number("BENCH_LIVE", 10_000)?,
            idle: Duration::from_secs(60),
            huge: program::number("BENCH_HUGE", 100_000)?,
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
    bench.prepare_bare()?;
    bench.prepare_namespaces()?;
    for round in 0..bench.sizes.rounds {
        println!("round {}", round + 1);
        for burst in &BURSTS {
            let measure = async |bench: &mut Bench| bench.burst(burst, round).await;
            bench.measure("burst", measure).await;
        }
        bench.measure("steady", Bench::steady).await;
        bench.measure("flood", Bench::flood).await;
        bench.measure("expiry", Bench::expiry).await;
    }
    if bench.sizes.pending > 0 {
        bench.measure("renewal", Bench::renewal).await;
        bench.measure("pending", Bench::pending).await;
    }
    bench.measure("shards", Bench::shards).await;
    bench.measure("live", Bench::live).await;
    if bench.sizes.huge > 0 {
        bench.measure("huge", Bench::huge).await;
    }
    bench.report.print()
}

impl Bench {
    /// Runs a measurement if BENCH_ONLY names it or is empty. The other measurements continue after a failure.
    async fn measure(&mut self, name: &str, measurement: impl AsyncFnOnce(&mut Self) -> Result<()>) {
        let chosen = env::var("BENCH_ONLY").unwrap_or_default();
        if chosen.is_empty() || chosen.split(',').any(|one| one == name) {
            let result = measurement(self).await;
            self.report.note(name, result);
        }
    }
}
