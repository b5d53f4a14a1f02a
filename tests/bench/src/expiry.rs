//! Measures credentials that expire in the same second.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use valet_harness::{Context, Error, Result};

use crate::{
    Bench,
    api::{VALET, counts, difference, path},
    burst::names,
};

impl Bench {
    /// Lets the credentials of many grants expire in the same second, and compares the deletion of their Secrets with
    /// the speed of the bare client.
    pub async fn expiry(&mut self, round: usize) -> Result<()> {
        let (kind, plural) = ("DownloadGrant", "downloadgrants");
        let count = self.sizes.expiring;
        let templates = self
            .templates(kind, plural, &format!("expiring-template-{round}"))
            .await?;
        let bare = names(&format!("bare-expiring-{round}"), count);
        self.cluster
            .each(bare.clone(), |cluster, name| {
                let mut secret = templates.secret.clone();
                secret["metadata"]["name"] = name.into();
                async move {
                    cluster
                        .send("POST", &path("", "secrets"), Some(&secret))
                        .await
                        .map(drop)
                }
            })
            .await?;
        let began = Instant::now();
        self.delete("", "secrets", &bare).await?;
        let bare_rate = count as f64 / began.elapsed().as_secs_f64();

        let all = names(&format!("expiring-{round}"), count);
        // The grants must be issued before their credentials expire.
        let lead = 20 + count as i64 / 100;
        let end = Timestamp::now()
            .checked_add(SignedDuration::from_secs(lead))
            .context("the clock is wrong")?;
        let end = Timestamp::from_second(end.as_second()).context("the clock is wrong")?;
        let issued = self.cluster.watch(&path(VALET, plural), "MODIFIED").await?;
        let scene = &self.scene;
        self.cluster
            .each(all.clone(), |cluster, name| {
                let mut grant = scene.grant(kind, &name, 7200);
                grant["spec"]["deadlineTime"] = end.to_string().into();
                async move { cluster.send("POST", &path(VALET, plural), Some(&grant)).await.map(drop) }
            })
            .await?;
        issued.wait(count).await?;
        let left = end.duration_since(Timestamp::now());
        if left.as_secs() < 2 {
            return Err(Error::new("the grants were issued too late for this measurement"));
        }
        self.settle().await?;
        let before = counts(&self.scene)?;
        let gone = self.cluster.watch(&path("", "secrets"), "DELETED").await?;
        let ended = self.cluster.watch(&path(VALET, plural), "MODIFIED").await?;
        let due = UNIX_EPOCH + Duration::from_secs(end.as_second().unsigned_abs());
        let due = Instant::now() + due.duration_since(SystemTime::now()).unwrap_or_default();
        let cpu = self.operator_cpu()?;
        let last = gone.wait(count).await?.duration_since(due).as_secs_f64();
        let statuses = ended.wait(count).await?.duration_since(due).as_secs_f64();
        let rate = count as f64 / last;
        self.report
            .add("expiry: share of the bare client's deletions", rate / bare_rate);
        self.report.add("expiry: Secrets deleted per second", rate);
        self.report
            .add("expiry: Secrets deleted per second by the bare client", bare_rate);
        self.report
            .add("expiry: last Secret deleted, seconds after the expiry", last);
        self.report
            .add("expiry: last status, seconds after the expiry", statuses);
        self.report.add(
            "expiry: operator CPU seconds per 1000 grants",
            (self.operator_cpu()? - cpu) * 1000.0 / count as f64,
        );
        for (call, n) in difference(&before, &counts(&self.scene)?) {
            self.report
                .add(&format!("expiry: {call} per grant"), n as f64 / count as f64);
        }
        self.delete(VALET, plural, &all).await?;
        self.settle().await
    }
}
