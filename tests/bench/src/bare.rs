//! The bare client: the same write requests as the operator, without decisions.

use std::{fs, time::Instant};

use serde_json::{Value, json};
use valet_harness::{Context, Result, operator};

use crate::{
    Bench,
    api::{BARE, Cluster, VALET, path},
};

/// The objects that the operator wrote for one grant of each kind. They are the templates of the bare client.
pub struct Templates {
    pub secret: Value,
    pub status: Value,
}

impl Bench {
    /// Installs the copies of the CRDs for the bare client.
    pub async fn prepare(&mut self) -> Result<()> {
        let crds = operator::crds(&operator::find_valet()?)?;
        let copies: Vec<_> = crds
            .split("\n---\n")
            .filter(|crd| crd.contains("grants.valetkey.dev"))
            .map(|crd| crd.replace(VALET, BARE))
            .collect();
        let file = self.scene.plane.scratch().join("bare-crds.yaml");
        fs::write(&file, copies.join("\n---\n")).context("cannot write the CRDs")?;
        let file = file.display().to_string();
        self.scene
            .plane
            .kubectl(&["apply", "--server-side", "--filename", &file])?;
        self.scene.plane.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "--filename",
            &file,
        ])?;
        Ok(())
    }

    /// Creates one grant and returns the objects that the operator wrote for it.
    pub async fn templates(&self, kind: &str, plural: &str, name: &str) -> Result<Templates> {
        let grants = path(VALET, plural);
        let grant = self.scene.grant(kind, name, 7200);
        self.cluster.send("POST", &grants, Some(&grant)).await?;
        self.cluster.wait_for(&grants, name, 1, "/status/issuedTime").await?;
        let status = self.cluster.get(&format!("{grants}/{name}")).await?["status"].take();
        let mut secret = self.cluster.get(&format!("{}/{name}", path("", "secrets"))).await?;
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "ownerReferences",
        ] {
            if let Some(meta) = secret["metadata"].as_object_mut() {
                meta.remove(field);
            }
        }
        Ok(Templates { secret, status })
    }

    /// Creates a grant, a Secret and a status for each name, and returns the seconds that this took.
    pub async fn bare_burst(&self, kind: &str, plural: &str, names: &[String], templates: &Templates) -> Result<f64> {
        // The measurement of the operator has the same watch.
        let watch = self.cluster.watch(&path(BARE, plural), "MODIFIED").await?;
        let began = Instant::now();
        self.cluster
            .each(names.to_vec(), |cluster, name| {
                let grant = self.bare_grant(kind, &name);
                async move {
                    cluster.send("POST", &path(BARE, plural), Some(&grant)).await?;
                    write(&cluster, plural, &name, templates).await
                }
            })
            .await?;
        Ok(watch.wait(names.len()).await?.duration_since(began).as_secs_f64())
    }

    /// Creates the grants first, and then measures the seconds for the Secrets and the statuses.
    pub async fn bare_writes(
        &self,
        kind: &str,
        plural: &str,
        names: &[String],
        templates: &Templates,
    ) -> Result<f64> {
        self.cluster
            .each(names.to_vec(), |cluster, name| {
                let grant = self.bare_grant(kind, &name);
                async move { cluster.send("POST", &path(BARE, plural), Some(&grant)).await.map(drop) }
            })
            .await?;
        let watch = self.cluster.watch(&path(BARE, plural), "MODIFIED").await?;
        let began = Instant::now();
        self.cluster
            .each(names.to_vec(), |cluster, name| async move {
                write(&cluster, plural, &name, templates).await
            })
            .await?;
        Ok(watch.wait(names.len()).await?.duration_since(began).as_secs_f64())
    }

    fn bare_grant(&self, kind: &str, name: &str) -> Value {
        let mut grant = self.scene.grant(kind, name, 7200);
        grant["apiVersion"] = format!("{BARE}/v1alpha1").into();
        grant
    }

    /// Deletes Secrets and grants with these names.
    pub async fn delete(&self, group: &str, plural: &str, names: &[String]) -> Result<()> {
        self.cluster
            .each(names.to_vec(), |cluster, name| async move {
                let options = json!({"propagationPolicy": "Background"});
                let path = format!("{}/{name}", path(group, plural));
                cluster.send("DELETE", &path, Some(&options)).await.map(drop)
            })
            .await
    }
}

async fn write(cluster: &Cluster, plural: &str, name: &str, templates: &Templates) -> Result<()> {
    let mut secret = templates.secret.clone();
    secret["metadata"]["name"] = name.into();
    cluster.send("POST", &path("", "secrets"), Some(&secret)).await?;
    let status = json!({"status": templates.status});
    let path = format!("{}/{name}/status", path(BARE, plural));
    cluster.send("PATCH", &path, Some(&status)).await.map(drop)
}
