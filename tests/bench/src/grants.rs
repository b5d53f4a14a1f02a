//! Grants of the benchmark: their names, and requests that create and delete many of them.

use serde_json::{Value, json};
use valet_harness::Result;

use crate::{
    Bench, NAMESPACE,
    api::{Place, VALET},
};

/// A kind of grant.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// The name of the resource in paths.
    pub plural: &'static str,
}

pub const DOWNLOAD: Kind = Kind {
    name: "DownloadGrant",
    plural: "downloadgrants",
};
pub const UPLOAD: Kind = Kind {
    name: "UploadGrant",
    plural: "uploadgrants",
};

/// The number of namespaces for tenants. The first namespace is [`NAMESPACE`].
pub const NAMESPACES: usize = 10;

/// The lifetime of the credentials in seconds, if a measurement needs no other lifetime.
pub const LIFETIME: u64 = 7200;

/// Returns the name of a namespace for tenants.
pub fn namespace(n: usize) -> String {
    match n {
        0 => NAMESPACE.to_owned(),
        n => format!("{NAMESPACE}-{n}"),
    }
}

/// Returns `count` places `PREFIX-0`, `PREFIX-1` and so on, alternating between the first `namespaces` namespaces.
pub fn places(prefix: &str, count: usize, namespaces: usize) -> Vec<Place> {
    let place = |n| Place {
        namespace: namespace(n % namespaces),
        name: format!("{prefix}-{n}"),
    };
    (0..count).map(place).collect()
}

impl Bench {
    /// Creates the namespaces, and allows their tenants to use the store.
    pub fn prepare_namespaces(&self) -> Result<()> {
        let names: Vec<_> = (0..NAMESPACES).map(namespace).collect();
        for name in &names[1..] {
            self.scene.plane.kubectl(&["create", "namespace", name])?;
        }
        let patch = json!([{"op": "replace", "path": "/spec/access/0/namespaces/names", "value": names}]);
        let patch = format!("--patch={patch}");
        self.scene
            .plane
            .kubectl(&["patch", "costore", NAMESPACE, "--type=json", &patch])?;
        Ok(())
    }

    /// Builds the grant at a place. Its credential has the given lifetime.
    pub fn grant(&self, kind: Kind, place: &Place, seconds: u64) -> Value {
        let mut grant = self.scene.grant(kind.name, &place.name, seconds);
        grant["metadata"]["namespace"] = place.namespace.as_str().into();
        grant["spec"]["key"] = format!("tenants/{}/{}", place.namespace, place.name).into();
        grant
    }

    /// Creates a grant at each place. `change` changes each grant before.
    pub async fn create(
        &self,
        kind: Kind,
        places: &[Place],
        seconds: u64,
        change: impl Fn(&mut Value),
    ) -> Result<()> {
        self.create_in(VALET, kind, places, seconds, change).await
    }

    /// As [`Self::create`], in the API group `group`.
    pub async fn create_in(
        &self,
        group: &'static str,
        kind: Kind,
        places: &[Place],
        seconds: u64,
        change: impl Fn(&mut Value),
    ) -> Result<()> {
        self.cluster
            .each(places.to_vec(), |cluster, place| {
                let mut grant = self.grant(kind, &place, seconds);
                grant["apiVersion"] = format!("{group}/v1alpha1").into();
                change(&mut grant);
                async move {
                    let path = place.folder(group, kind.plural);
                    cluster.send("POST", &path, Some(&grant)).await.map(drop)
                }
            })
            .await
    }

    /// Deletes the objects at all places.
    pub async fn delete(&self, group: &str, plural: &str, places: &[Place]) -> Result<()> {
        self.cluster
            .each(places.to_vec(), |cluster, place| async move {
                let options = json!({"propagationPolicy": "Background"});
                let path = place.path(group, plural);
                cluster.send("DELETE", &path, Some(&options)).await.map(drop)
            })
            .await
    }
}
