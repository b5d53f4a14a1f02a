//! Measures a burst of grants with two shards on one API server.

use std::time::Instant;

use serde_json::json;
use valet_harness::{OperatorOptions, Result};

use crate::{
    Bench, NAMESPACE,
    api::{VALET, all},
    grants::{DOWNLOAD, LIFETIME, NAMESPACES, places},
    usage::{control_plane, cpu_of},
};

/// The number of stores. A hash divides them among the shards.
const STORES: usize = 8;

impl Bench {
    /// Creates the same burst for one operator and for two shards. The grants use several stores in turn.
    pub async fn shards(&mut self) -> Result<()> {
        let (kind, count) = (DOWNLOAD, self.sizes.burst);
        self.prepare_stores().await?;
        let templates = self.templates(kind).await?;
        let at = places("bare-shards", count, NAMESPACES);
        let a3 = self.bare_burst(kind, &at, &templates).await?;
        self.delete_bare(kind, &at).await?;

        self.operator.kill();
        let start = |n: usize| {
            let args = vec!["--shards=2".to_owned(), format!("--shard={n}")];
            let options = OperatorOptions {
                args,
                ..OperatorOptions::default()
            };
            self.scene.operator(&options)
        };
        let shards = [start(0)?, start(1)?];
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let cpu = |n: usize| cpu_of(shards[n].process().pid());
        let before = [cpu(0)?, cpu(1)?];
        let plane = control_plane(&self.scene);
        let at = places("shards", count, NAMESPACES);
        let watch = self.cluster.watch(&all(VALET, kind.plural), "MODIFIED").await?;
        let began = Instant::now();
        self.create(kind, &at, LIFETIME, |grant| {
            let name = grant["metadata"]["name"].as_str().unwrap_or_default();
            let n: usize = name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            grant["spec"]["storeRef"]["name"] = format!("{NAMESPACE}-{}", n % STORES).into();
        })
        .await?;
        let seconds = watch.wait(count).await?.duration_since(began).as_secs_f64();
        let plane = control_plane(&self.scene) - plane;
        self.report.add("two shards: share of A3", a3 / seconds);
        self.report.add("two shards: grants per second", count as f64 / seconds);
        for n in [0, 1] {
            self.report.add(
                &format!("two shards: CPU of shard {n} / control plane CPU"),
                (cpu(n)? - before[n]) / plane,
            );
        }
        for shard in shards {
            shard.kill();
        }
        self.operator = self.scene.operator(&OperatorOptions::default())?;
        self.delete_grants(kind, &at).await
    }

    /// Creates further stores with the same bucket.
    async fn prepare_stores(&self) -> Result<()> {
        let folder = "/apis/valetkey.dev/v1alpha1/clusterobjectstores";
        let spec = self.cluster.get(&format!("{folder}/{NAMESPACE}")).await?["spec"].take();
        for n in 0..STORES {
            let name = format!("{NAMESPACE}-{n}");
            let store = json!({
                "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name}, "spec": spec,
            });
            self.cluster.send("POST", folder, Some(&store)).await?;
            let (resource, condition) = (format!("costore/{name}"), "--for=condition=Ready");
            self.scene
                .plane
                .kubectl(&["wait", condition, &resource, "--timeout=30s"])?;
        }
        Ok(())
    }
}
