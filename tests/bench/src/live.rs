//! Measures an operator with many live grants: its memory, its idle time and its restart. Also measures grants that
//! cause work again and again: uploads that nobody sends, and renewals.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;
use valet_harness::{OperatorOptions, Result};

use crate::{
    Bench,
    api::{VALET, all, counts, difference},
    grants::{DOWNLOAD, LIFETIME, NAMESPACES, UPLOAD, places},
};

/// The time after the restart in which requests are counted. It is much shorter than the resync interval.
const OBSERVED: Duration = Duration::from_secs(30);

/// The lifetime of the credentials that are renewed, in seconds. It is the minimum for renewals. Valet renews
/// them after 350 to 400 seconds.
const RENEWED: u64 = 600;

/// The time after which the benchmark waits for the renewals. All grants were created in the first seconds of this time.
const UNTIL_RENEWAL: Duration = Duration::from_secs(330);

impl Bench {
    /// Creates live grants in bursts, and measures the operator at rest and its restart.
    pub async fn live(&mut self) -> Result<()> {
        let count = self.sizes.live;
        // A new operator shows the memory of the live grants without the memory of the measurements before.
        self.operator.kill();
        self.operator = self.scene.operator(&OperatorOptions::default())?;
        self.settle().await?;
        self.report.add("memory without grants, MiB", self.operator_memory()?);
        let at = places("live", count, 1);
        let name = "large burst of DownloadGrants";
        self.large_burst(name, DOWNLOAD, &at).await?;
        self.add_memory(count).await?;
        self.idle(count).await?;
        self.restart(count).await?;
        self.delete_grants(DOWNLOAD, &at).await?;
        let at = places("live", count, NAMESPACES);
        let name = "large burst of DownloadGrants in ten namespaces";
        self.large_burst(name, DOWNLOAD, &at).await?;
        self.delete_grants(DOWNLOAD, &at).await
    }

    /// Creates very many live grants, and measures the memory and the restart.
    pub async fn huge(&mut self) -> Result<()> {
        let count = self.sizes.huge;
        let at = places("huge", count, NAMESPACES);
        let name = "very large burst of DownloadGrants in ten namespaces";
        self.operator_burst(name, DOWNLOAD, &at).await?;
        self.add_memory(count).await?;
        self.restart(count).await
    }

    async fn add_memory(&mut self, count: usize) -> Result<()> {
        self.settle().await?;
        self.report.add(
            &format!("memory with {count} live grants, MiB"),
            self.operator_memory()?,
        );
        Ok(())
    }

    /// Observes the operator without any change.
    async fn idle(&mut self, count: usize) -> Result<()> {
        let (before, cpu) = (counts(&self.scene)?, self.operator_cpu()?);
        sleep(Duration::from_secs(60)).await;
        let name = format!("idle with {count} live grants");
        self.report.add(
            &format!("{name}: operator CPU seconds per minute"),
            self.operator_cpu()? - cpu,
        );
        for (call, n) in difference(&before, &counts(&self.scene)?) {
            self.report.add(&format!("{name}: {call} per minute"), n as f64);
        }
        Ok(())
    }

    /// Kills the operator, and starts a new operator.
    async fn restart(&mut self, count: usize) -> Result<()> {
        let name = format!("restart with {count} live grants");
        self.operator.kill();
        let before = counts(&self.scene)?;
        let began = Instant::now();
        self.operator = self.scene.operator(&OperatorOptions::default())?;
        self.report
            .add(&format!("{name}: seconds until ready"), began.elapsed().as_secs_f64());
        let served = self.cluster.watch(&all(VALET, DOWNLOAD.plural), "MODIFIED").await?;
        let at = places("after-restart", 1, 1);
        self.create(DOWNLOAD, &at, LIFETIME, |_| ()).await?;
        let first = served.wait(1).await?.duration_since(began);
        self.report.add(
            &format!("{name}: seconds until a new grant is served"),
            first.as_secs_f64(),
        );
        sleep(OBSERVED.saturating_sub(began.elapsed())).await;
        self.report
            .add(&format!("{name}: operator CPU seconds in 30 s"), self.operator_cpu()?);
        self.report
            .add(&format!("{name}: memory, MiB"), self.operator_memory()?);
        for (call, n) in difference(&before, &counts(&self.scene)?) {
            self.report
                .add(&format!("{name}: {call} per live grant"), n as f64 / count as f64);
        }
        self.delete(VALET, DOWNLOAD.plural, &at).await
    }

    /// Creates upload grants that nobody uses, and counts the requests of the second minute.
    pub async fn pending(&mut self) -> Result<()> {
        let count = self.sizes.pending;
        let at = places("pending", count, 1);
        let served = self.cluster.watch(&all(VALET, UPLOAD.plural), "MODIFIED").await?;
        self.create(UPLOAD, &at, LIFETIME, |_| ()).await?;
        served.wait(count).await?;
        sleep(Duration::from_secs(60)).await;
        let (polls, mark) = (self.polls()?, self.mark()?);
        sleep(Duration::from_secs(60)).await;
        let name = "pending uploads, in one minute";
        self.report.add(
            &format!("{name}: HEAD requests to the store per grant"),
            (self.polls()? - polls) / count as f64,
        );
        mark.add_to_report(self, name, count, "")?;
        self.delete_grants(UPLOAD, &at).await
    }

    /// Lets the operator renew many credentials.
    pub async fn renewal(&mut self) -> Result<()> {
        let count = self.sizes.pending;
        let at = places("renewed", count, 1);
        let served = self.cluster.watch(&all(VALET, DOWNLOAD.plural), "MODIFIED").await?;
        self.create(DOWNLOAD, &at, RENEWED, |grant| {
            grant["spec"]["renewal"] = json!({"policy": "Always"});
        })
        .await?;
        let created = Instant::now();
        served.wait(count).await?;
        sleep(UNTIL_RENEWAL.saturating_sub(created.elapsed())).await;
        let gone = self.cluster.watch(&all("", "secrets"), "DELETED").await?;
        let renewed = self.cluster.watch(&all("", "secrets"), "MODIFIED").await?;
        let statuses = self.cluster.watch(&all(VALET, DOWNLOAD.plural), "MODIFIED").await?;
        let mark = self.mark()?;
        let first = Instant::now();
        renewed.wait(count).await?;
        let last = statuses.wait(count).await?.duration_since(first).as_secs_f64();
        mark.add_to_report(self, "renewal", count, "")?;
        self.report
            .add("renewal: seconds until all credentials were renewed", last);
        self.report
            .add("renewal: Secrets that were deleted", gone.so_far() as f64);
        self.delete_grants(DOWNLOAD, &at).await
    }
}
