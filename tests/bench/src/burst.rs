//! Measures bursts of grants.

use std::time::Instant;

use valet_harness::Result;

use crate::{
    Bench,
    api::{BARE, Place, SIMPLE, VALET, all},
    grants::{DOWNLOAD, Kind, LIFETIME, NAMESPACES, UPLOAD, places},
    simple,
    usage::{Mark, control_plane, memory_of},
};

/// A burst of grants of one kind.
pub struct Burst {
    /// The name of the burst in the report.
    pub name: &'static str,
    pub kind: Kind,
    /// The number of namespaces that have the grants.
    pub namespaces: usize,
}

/// The bursts of each round.
pub const BURSTS: [Burst; 3] = [
    Burst {
        name: "DownloadGrants",
        kind: DOWNLOAD,
        namespaces: 1,
    },
    Burst {
        name: "UploadGrants",
        kind: UPLOAD,
        namespaces: 1,
    },
    Burst {
        name: "DownloadGrants in ten namespaces",
        kind: DOWNLOAD,
        namespaces: NAMESPACES,
    },
];

impl Bench {
    /// Creates a burst of grants, and compares the operator with the bare client. In every second round, the operator
    /// comes before the bare client.
    pub async fn burst(&mut self, burst: &Burst, round: usize) -> Result<()> {
        let count = self.sizes.burst;
        let (name, kind) = (burst.name, burst.kind);
        let templates = self.templates(kind).await?;
        let at = |prefix: &str| places(prefix, count, burst.namespaces);
        let (mut bare, mut valet) = (None, None);
        for is_bare in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
            if is_bare {
                let plane = control_plane(&self.scene);
                let a3 = self.bare_burst(kind, &at("a3"), &templates).await?;
                let plane = control_plane(&self.scene) - plane;
                self.report.add(
                    &format!("{name}: A3, control plane CPU seconds per 1,000 grants"),
                    plane * 1000.0 / count as f64,
                );
                self.delete_bare(kind, &at("a3")).await?;
                let a2 = self.bare_writes(kind, &at("a2"), &templates).await?;
                self.delete_bare(kind, &at("a2")).await?;
                bare = Some((a3, a2));
            } else {
                let together = self.operator_burst(name, kind, &at("burst")).await?;
                self.delete_grants(kind, &at("burst")).await?;
                let waiting = self.operator_writes(kind, &at("waiting")).await?;
                self.delete_grants(kind, &at("waiting")).await?;
                valet = Some((together, waiting));
            }
        }
        if let (Some((a3, a2)), Some((together, waiting))) = (bare, valet) {
            self.report.add(&format!("{name}: share of A3"), a3 / together);
            self.report.add(&format!("{name}: share of A2"), a2 / waiting);
            self.report.add(&format!("{name}: seconds, A3"), a3);
            self.report.add(&format!("{name}: seconds, A2"), a2);
            if burst.kind.name == DOWNLOAD.name && burst.namespaces == 1 {
                self.simple_burst(a3).await?;
            }
        }
        Ok(())
    }

    /// Measures the same burst with the simple operator.
    async fn simple_burst(&mut self, a3: f64) -> Result<()> {
        let (name, kind) = ("simple operator", DOWNLOAD);
        let at = places("simple", self.sizes.burst, 1);
        let operator = simple::start(&self.scene)?;
        // The operator has listed the grants when it issues this one.
        let warm = places("warm", 1, 1);
        let watch = self.cluster.watch(&all(SIMPLE, kind.plural), "MODIFIED").await?;
        self.create_in(SIMPLE, kind, &warm, LIFETIME, |_| ()).await?;
        watch.wait(1).await?;
        let seconds = self.timed_burst(name, SIMPLE, operator.pid(), kind, &at).await?;
        self.report.add(&format!("{name}: share of A3"), a3 / seconds);
        self.report
            .add(&format!("{name}: memory, MiB"), memory_of(operator.pid())?);
        operator.kill();
        for at in [at, warm] {
            self.delete(SIMPLE, kind.plural, &at).await?;
        }
        self.settle().await
    }

    /// Compares a large burst with the bare client, whose objects are deleted first. The grants of the burst stay.
    pub async fn large_burst(&mut self, name: &str, kind: Kind, at: &[Place]) -> Result<()> {
        let templates = self.templates(kind).await?;
        let a3 = self.bare_burst(kind, at, &templates).await?;
        self.delete_bare(kind, at).await?;
        let together = self.operator_burst(name, kind, at).await?;
        self.report.add(&format!("{name}: share of A3"), a3 / together);
        self.report.add(&format!("{name}: seconds, A3"), a3);
        Ok(())
    }

    /// Creates grants for Valet and returns the seconds until the last status.
    pub async fn operator_burst(&mut self, name: &str, kind: Kind, at: &[Place]) -> Result<f64> {
        let pid = self.operator.process().pid();
        self.timed_burst(name, VALET, pid, kind, at).await
    }

    /// Creates grants in an API group and returns the seconds until the last status. `pid` is the process of the
    /// operator.
    async fn timed_burst(
        &mut self,
        name: &str,
        group: &'static str,
        pid: u32,
        kind: Kind,
        at: &[Place],
    ) -> Result<f64> {
        let mark = Mark::now(&self.scene, pid)?;
        let watch = self.cluster.watch(&all(group, kind.plural), "MODIFIED").await?;
        let began = Instant::now();
        self.create_in(group, kind, at, LIFETIME, |_| ()).await?;
        let created = began.elapsed().as_secs_f64();
        let seconds = watch.wait(at.len()).await?.duration_since(began).as_secs_f64();
        self.report
            .add(&format!("{name}: grants per second"), at.len() as f64 / seconds);
        self.report.add(&format!("{name}: seconds to create"), created);
        self.report.add(&format!("{name}: seconds to the last status"), seconds);
        let ignored = format!("POST {}", kind.plural);
        mark.add_to_report(self, name, at.len(), &ignored)?;
        Ok(seconds)
    }

    /// Creates the grants while the operator is stopped, and returns the seconds from its continuation to the last
    /// status.
    async fn operator_writes(&mut self, kind: Kind, at: &[Place]) -> Result<f64> {
        self.operator.process().pause();
        let created = self.create(kind, at, LIFETIME, |_| ()).await;
        let watch = self.cluster.watch(&all(VALET, kind.plural), "MODIFIED").await;
        let began = Instant::now();
        self.operator.process().resume();
        created?;
        Ok(watch?.wait(at.len()).await?.duration_since(began).as_secs_f64())
    }

    pub async fn delete_bare(&self, kind: Kind, at: &[Place]) -> Result<()> {
        // The garbage collector deletes the Secrets of deleted grants, so the Secrets come first.
        self.delete("", "secrets", at).await?;
        self.delete(BARE, kind.plural, at).await?;
        self.settle().await
    }

    pub async fn delete_grants(&self, kind: Kind, at: &[Place]) -> Result<()> {
        self.delete(VALET, kind.plural, at).await?;
        self.settle().await
    }
}
