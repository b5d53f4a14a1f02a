//! Measures bursts of grants.

use std::time::Instant;

use valet_harness::{Result, Scene};

use crate::{
    Bench,
    api::{BARE, VALET, counts, difference, path},
    process::cpu,
};

/// The kinds of grants, with the names of their resources.
const KINDS: [(&str, &str); 2] = [("DownloadGrant", "downloadgrants"), ("UploadGrant", "uploadgrants")];

/// Returns `count` names with a prefix.
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Returns the CPU seconds of the API server and etcd.
fn control_plane(scene: &Scene) -> f64 {
    cpu(&["kube-apiserver", &scene.plane.port().to_string()])
        + cpu(&["etcd", scene.plane.etcd_url().trim_start_matches("http")])
}

impl Bench {
    /// Creates a burst of grants of each kind, and compares the operator with the bare client.
    pub async fn burst(&mut self, round: usize) -> Result<()> {
        let count = self.sizes.burst;
        for (kind, plural) in KINDS {
            let template = format!("template-{plural}-{round}");
            let templates = self.templates(kind, plural, &template).await?;
            let all = names(&format!("a3-{plural}-{round}"), count);
            let a3 = self.bare_burst(kind, plural, &all, &templates).await?;
            self.delete(BARE, plural, &all).await?;
            self.delete("", "secrets", &all).await?;
            let all = names(&format!("a2-{plural}-{round}"), count);
            let a2 = self.bare_writes(kind, plural, &all, &templates).await?;
            self.delete(BARE, plural, &all).await?;
            self.delete("", "secrets", &all).await?;

            let prefix = format!("valet-{plural}-{round}");
            let all = names(&prefix, count);
            let before = counts(&self.scene)?;
            let (operator, plane) = (self.operator_cpu()?, control_plane(&self.scene));
            let watch = self.cluster.watch(&path(VALET, plural), "MODIFIED").await?;
            let began = Instant::now();
            let scene = &self.scene;
            self.cluster
                .each(all.clone(), |cluster, name| {
                    let grant = scene.grant(kind, &name, 7200);
                    async move { cluster.send("POST", &path(VALET, plural), Some(&grant)).await.map(drop) }
                })
                .await?;
            let created = began.elapsed().as_secs_f64();
            let valet = watch.wait(count).await?.duration_since(began).as_secs_f64();
            let rate = count as f64 / valet;
            self.report.add(&format!("{kind}: share of A3"), a3 / valet);
            self.report.add(&format!("{kind}: share of A2"), a2 / valet);
            self.report.add(&format!("{kind}: grants per second"), rate);
            self.report
                .add(&format!("{kind}: seconds to create the grants"), created);
            self.report.add(&format!("{kind}: seconds to the last status"), valet);
            let (operator, plane) = (self.operator_cpu()? - operator, control_plane(&self.scene) - plane);
            self.report.add(
                &format!("{kind}: operator CPU seconds per 1000 grants"),
                operator * 1000.0 / count as f64,
            );
            self.report.add(
                &format!("{kind}: control plane CPU seconds per 1000 grants"),
                plane * 1000.0 / count as f64,
            );
            self.report
                .add(&format!("{kind}: operator CPU / control plane CPU"), operator / plane);
            let requests = difference(&before, &counts(&self.scene)?);
            let own = [(format!("POST {plural}"), count as u64)].into();
            let requests = difference(&own, &requests);
            for (call, n) in &requests {
                self.report
                    .add(&format!("{kind}: {call} per grant"), *n as f64 / count as f64);
            }
            self.delete(VALET, plural, &all).await?;
            self.delete(VALET, plural, &[template]).await?;
            self.settle().await?;
        }
        Ok(())
    }
}
