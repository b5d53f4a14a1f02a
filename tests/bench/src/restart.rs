//! Measures a restart of the operator with live grants.

use std::time::{Duration, Instant};

use valet_harness::{OperatorOptions, Result};

use crate::{
    Bench,
    api::{VALET, counts, difference, path},
    burst::names,
};

/// The time after the restart in which requests are counted. It is much shorter than the resync interval.
const OBSERVED: Duration = Duration::from_secs(30);

impl Bench {
    /// Creates live grants, kills the operator, and starts a new operator.
    pub async fn restart(&mut self) -> Result<()> {
        let (kind, plural) = ("DownloadGrant", "downloadgrants");
        let count = self.sizes.live;
        let all = names("live", count);
        let before = self.operator_memory()?;
        let issued = self.cluster.watch(&path(VALET, plural), "MODIFIED").await?;
        let scene = &self.scene;
        self.cluster
            .each(all, |cluster, name| {
                let grant = scene.grant(kind, &name, 7200);
                async move { cluster.send("POST", &path(VALET, plural), Some(&grant)).await.map(drop) }
            })
            .await?;
        issued.wait(count).await?;
        self.settle().await?;
        let memory = self.operator_memory()?;
        self.report.add("memory before the live grants, MiB", before);
        self.report
            .add(&format!("memory with {count} live grants, MiB"), memory);
        self.report
            .add("memory per live grant, KiB", (memory - before) * 1024.0 / count as f64);
        self.operator.kill();
        let before = counts(&self.scene)?;
        let began = Instant::now();
        self.operator = self.scene.operator(&OperatorOptions::default())?;
        self.report
            .add("restart: seconds until ready", began.elapsed().as_secs_f64());
        let served = self.cluster.watch(&path(VALET, plural), "MODIFIED").await?;
        let grant = self.scene.grant(kind, "after-restart", 7200);
        self.cluster.send("POST", &path(VALET, plural), Some(&grant)).await?;
        let first = served.wait(1).await?.duration_since(began);
        self.report
            .add("restart: seconds until a new grant is served", first.as_secs_f64());
        tokio::time::sleep(OBSERVED.saturating_sub(began.elapsed())).await;
        self.report
            .add("restart: operator CPU seconds in 30 s", self.operator_cpu()?);
        self.report.add("restart: memory in MiB", self.operator_memory()?);
        for (call, n) in difference(&before, &counts(&self.scene)?) {
            self.report
                .add(&format!("restart: {call} per live grant"), n as f64 / count as f64);
        }
        Ok(())
    }
}
