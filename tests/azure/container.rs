//! A tenant with a container on Azurite.

use std::sync::LazyLock;

use serde_json::{Value, json};
use valet_harness::{Azurite, azurite::ACCOUNT};

use crate::world::{Mounted, Tenant, merge};

/// An Azurite server that accepts account keys.
pub static BY_KEY: LazyLock<Azurite> = LazyLock::new(|| Azurite::start().expect("Azurite starts"));
/// An Azurite server that accepts tokens of identities, over TLS.
pub static BY_IDENTITY: LazyLock<Azurite> =
    LazyLock::new(|| Azurite::start_with_identities().expect("Azurite starts with identities"));

/// A tenant and a container of the same name.
pub struct OnAzure {
    pub t: Tenant,
    pub azurite: &'static Azurite,
}

impl OnAzure {
    pub fn new(test: &str, azurite: &'static Azurite) -> Self {
        let t = Tenant::new(test);
        azurite.create_container(t.name()).expect("a container can be made");
        let on = Self { t, azurite };
        on.t.apply(&[on.credentials(azurite.key())]);
        on
    }

    pub fn credentials(&self, key: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.t.name(), "namespace": "valet-system"},
            "stringData": {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": key},
        })
    }

    /// The tenant's store with the provider Azure Blob Storage; `more` is merged over its settings.
    pub fn store(&self, more: Value) -> Value {
        let mut store = self.t.store();
        let mut azure = json!({
            "account": ACCOUNT, "container": self.t.name(), "endpoint": self.azurite.endpoint(),
            "addressingStyle": "Path", "credentials": {"secretRef": {"name": self.t.name()}},
            "unsignedHeaders": "Tolerate",
        });
        merge(&mut azure, more);
        store["spec"]["s3"] = Value::Null;
        store["spec"]["azureBlob"] = azure;
        store
    }

    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let blob = self.t.key(name);
        self.azurite.get(self.t.name(), &blob).expect("Azurite answers")
    }

    /// Replaces text in the URL of a credential's `curl.cfg`, and uses the changed URL.
    pub fn status_after_change(&self, key: &Mounted, args: &[&str], what: &str, by: &str) -> u16 {
        let config = &key.files["curl.cfg"];
        assert!(config.contains(what), "there is no {what}");
        let mut files = key.files.clone();
        files.insert("curl.cfg".into(), config.replacen(what, by, 1));
        let folder = key.folder.join("bent");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        std::fs::write(folder.join("curl.cfg"), &files["curl.cfg"]).expect("a file can be written");
        Mounted { folder, files }.curl(args).0
    }
}
