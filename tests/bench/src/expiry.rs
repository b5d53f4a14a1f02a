//! Measures credentials that expire in the same second.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet_harness::{Context, Error, Result};

use crate::{
    Bench,
    api::{VALET, all},
    grants::{DOWNLOAD, LIFETIME, places},
};

impl Bench {
    /// Lets the credentials of many grants expire in the same second, and compares the deletion of their Secrets with
    /// the speed of the bare client.
    pub async fn expiry(&mut self) -> Result<()> {
        let (kind, count) = (DOWNLOAD, self.sizes.expiring);
        let templates = self.templates(kind).await?;
        let bare = places("bare-expiring", count, 1);
        self.cluster
            .each(bare.clone(), |cluster, place| {
                let mut secret = templates.secret.clone();
                secret["metadata"]["name"] = place.name.as_str().into();
                // These Secrets have no grants, and the garbage collector deletes Secrets whose owner does not exist.
                secret["metadata"]["ownerReferences"] = json!([]);
                async move {
                    let path = place.folder("", "secrets");
                    cluster.send("POST", &path, Some(&secret)).await.map(drop)
                }
            })
            .await?;
        self.settle().await?;
        let began = Instant::now();
        self.delete("", "secrets", &bare).await?;
        let bare_rate = count as f64 / began.elapsed().as_secs_f64();

        let at = places("expiring", count, 1);
        // The grants must be issued before their credentials expire.
        let lead = 20 + count as i64 / 100;
        let end = Timestamp::now()
            .checked_add(SignedDuration::from_secs(lead))
            .context("the clock is wrong")?;
        let end = Timestamp::from_second(end.as_second()).context("the clock is wrong")?;
        let issued = self.cluster.watch(&all(VALET, kind.plural), "MODIFIED").await?;
        self.create(kind, &at, LIFETIME, |grant| {
            grant["spec"]["deadlineTime"] = end.to_string().into();
        })
        .await?;
        issued.wait(count).await?;
        let left = end.duration_since(Timestamp::now());
        if left.as_secs() < 2 {
            return Err(Error::new("the grants were issued too late for this measurement"));
        }
        self.settle().await?;
        let mark = self.mark()?;
        let gone = self.cluster.watch(&all("", "secrets"), "DELETED").await?;
        let ended = self.cluster.watch(&all(VALET, kind.plural), "MODIFIED").await?;
        let due = UNIX_EPOCH + Duration::from_secs(end.as_second().unsigned_abs());
        let due = Instant::now() + due.duration_since(SystemTime::now()).unwrap_or_default();
        let last = gone.wait(count).await?.duration_since(due).as_secs_f64();
        let statuses = ended.wait(count).await?.duration_since(due).as_secs_f64();
        let rate = count as f64 / last;
        let report = &mut self.report;
        report.add("expiry: share of the bare client's deletions", rate / bare_rate);
        report.add("expiry: Secrets deleted per second", rate);
        report.add("expiry: Secrets deleted per second by the bare client", bare_rate);
        report.add("expiry: last Secret deleted, seconds after the expiry", last);
        report.add("expiry: last status, seconds after the expiry", statuses);
        mark.add_to_report(self, "expiry", count, "")?;
        self.delete_grants(kind, &at).await
    }
}
