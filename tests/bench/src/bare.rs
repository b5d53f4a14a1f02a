//! The bare client: the same write requests as the operator, without decisions.

use std::{fs, time::Instant};

use serde_json::{Value, json};
use valet_harness::{Context, Result, operator};

use crate::{
    Bench,
    api::{BARE, Cluster, Place, SIMPLE, VALET, all},
    grants::{Kind, LIFETIME},
};

/// The objects that the operator wrote for one grant of each kind. They are the templates of the bare client.
pub struct Templates {
    pub secret: Value,
    pub status: Value,
}

impl Bench {
    /// Installs the copies of the CRDs for the bare client and for the simple operator.
    pub fn prepare_bare(&self) -> Result<()> {
        let crds = operator::crds(&operator::find_valet()?)?;
        let copies: Vec<_> = crds
            .split("\n---\n")
            .filter(|crd| crd.contains("grants.valetkey.dev"))
            .flat_map(|crd| [crd.replace(VALET, BARE), crd.replace(VALET, SIMPLE)])
            .collect();
        let file = self.scene.plane.scratch().join("bare-crds.yaml");
        fs::write(&file, copies.join("\n---\n")).context("cannot write the CRDs")?;
        let file = file.display().to_string();
        let plane = &self.scene.plane;
        plane.kubectl(&["apply", "--server-side", "--filename", &file])?;
        let condition = "--for=condition=Established";
        plane.kubectl(&["wait", condition, "--timeout=60s", "--filename", &file])?;
        Ok(())
    }

    /// Creates one grant, returns the objects that the operator wrote for it, and deletes the grant.
    pub async fn templates(&self, kind: Kind) -> Result<Templates> {
        let place = Place {
            namespace: crate::NAMESPACE.to_owned(),
            name: "template".to_owned(),
        };
        self.create(kind, std::slice::from_ref(&place), LIFETIME, |_| ())
            .await?;
        let path = place.path(VALET, kind.plural);
        let status = self.cluster.wait_for(&path, "/status/issuedTime").await?["status"].take();
        let mut secret = self.cluster.get(&place.path("", "secrets")).await?;
        if let Some(meta) = secret["metadata"].as_object_mut() {
            let kept = ["annotations", "labels", "ownerReferences"];
            meta.retain(|field, _| kept.contains(&field.as_str()));
        }
        // Deleting in the foreground also waits for the Secret, so that the next template can have the same name.
        let options = json!({"propagationPolicy": "Foreground"});
        self.cluster.send("DELETE", &path, Some(&options)).await?;
        for _ in 0..100 {
            let secret = self.cluster.get(&place.path("", "secrets")).await;
            if secret.is_err() && self.cluster.get(&path).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(Templates { secret, status })
    }

    /// Creates a grant, a Secret and a status at each place, and returns the seconds that this took.
    pub async fn bare_burst(&self, kind: Kind, places: &[Place], templates: &Templates) -> Result<f64> {
        // The measurement of the operator has the same watch.
        let watch = self.cluster.watch(&all(BARE, kind.plural), "MODIFIED").await?;
        let began = Instant::now();
        self.cluster
            .each(places.to_vec(), |cluster, place| {
                let grant = self.bare_grant(kind, &place);
                async move {
                    let path = place.folder(BARE, kind.plural);
                    let created = cluster.send("POST", &path, Some(&grant)).await?;
                    let created: Value = serde_json::from_str(&created).context("the grant is not JSON")?;
                    write(&cluster, kind, &created, templates).await
                }
            })
            .await?;
        Ok(watch.wait(places.len()).await?.duration_since(began).as_secs_f64())
    }

    /// Creates the grants first, and then measures the seconds for the Secrets and the statuses.
    pub async fn bare_writes(&self, kind: Kind, places: &[Place], templates: &Templates) -> Result<f64> {
        self.create_in(BARE, kind, places, LIFETIME, |_| ()).await?;
        // The operator knows the grants before it continues, and so does the bare client.
        let mut grants = self.cluster.get(&all(BARE, kind.plural)).await?;
        let grants: Vec<Value> = serde_json::from_value(grants["items"].take()).context("the list has no items")?;
        let watch = self.cluster.watch(&all(BARE, kind.plural), "MODIFIED").await?;
        let began = Instant::now();
        self.cluster
            .each(grants, |cluster, grant| async move {
                write(&cluster, kind, &grant, templates).await
            })
            .await?;
        Ok(watch.wait(places.len()).await?.duration_since(began).as_secs_f64())
    }

    fn bare_grant(&self, kind: Kind, place: &Place) -> Value {
        let mut grant = self.grant(kind, place, LIFETIME);
        grant["apiVersion"] = format!("{BARE}/v1alpha1").into();
        grant
    }
}

/// Writes the Secret and the status of a grant.
async fn write(cluster: &Cluster, kind: Kind, grant: &Value, templates: &Templates) -> Result<()> {
    let mut secret = templates.secret.clone();
    let meta = &grant["metadata"];
    let place = Place {
        namespace: meta["namespace"].as_str().unwrap_or_default().to_owned(),
        name: meta["name"].as_str().unwrap_or_default().to_owned(),
    };
    secret["metadata"]["name"] = place.name.as_str().into();
    let owner = &mut secret["metadata"]["ownerReferences"][0];
    owner["apiVersion"] = format!("{BARE}/v1alpha1").into();
    owner["name"] = place.name.as_str().into();
    owner["uid"] = meta["uid"].clone();
    let path = format!("{}?fieldManager=bare", place.folder("", "secrets"));
    cluster.send("POST", &path, Some(&secret)).await?;
    let status = json!({
        "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}, "status": templates.status,
    });
    let path = format!("{}/status?fieldManager=bare", place.path(BARE, kind.plural));
    cluster.send("PATCH", &path, Some(&status)).await.map(drop)
}
