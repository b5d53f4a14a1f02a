//! Starts two Azurite servers and signs credentials for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use valet_harness::{
    Azurite, Context, Error, Result, Scratch,
    azurite::ACCOUNT,
    fake::{Fake, granted},
    process,
};

use crate::{cells::BODY, key::Key};

/// The container for all tests.
pub const CONTAINER: &str = "conformance";
/// The stored access policy. Azurite takes the permissions only from this policy, so the policy needs some.
const POLICY: &str = "valet-1";

/// The kind of signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Key,
    Policy,
    Identity,
}

/// A column of the table: the kind of signature, and whether it is for a download.
#[derive(Clone, Copy, Debug)]
pub struct Column(pub By, pub bool);

/// All columns in the order of the table.
pub const COLUMNS: [Column; 6] = [
    Column(By::Key, false),
    Column(By::Key, true),
    Column(By::Policy, false),
    Column(By::Policy, true),
    Column(By::Identity, false),
    Column(By::Identity, true),
];

/// The servers, and the programs that sign for them.
pub struct Servers<'a> {
    pub by_key: Azurite,
    pub by_identity: Azurite,
    tokens: Fake,
    valet: &'a Path,
    scratch: Scratch,
    files: AtomicU32,
}

impl<'a> Servers<'a> {
    /// Starts the servers.
    ///
    /// # Errors
    /// Returns an error if a server does not start.
    pub fn start(valet: &'a Path) -> Result<Self> {
        Ok(Self {
            by_key: Azurite::start()?,
            by_identity: Azurite::start_with_identities()?,
            tokens: Fake::start(|_| granted(3600)),
            valet,
            scratch: Scratch::new("conformance")?,
            files: AtomicU32::new(0),
        })
    }

    pub fn server(&self, column: Column) -> &Azurite {
        match column.0 {
            By::Key | By::Policy => &self.by_key,
            By::Identity => &self.by_identity,
        }
    }

    pub fn set_policy(&self) -> Result<()> {
        self.by_key.set_policies(CONTAINER, &json!({POLICY: "rcw"}))
    }

    pub fn stored(&self, column: Column, blob: &str) -> Result<Option<Vec<u8>>> {
        self.server(column).get(CONTAINER, blob)
    }

    pub fn file(&self, bytes: &[u8]) -> Result<PathBuf> {
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        self.scratch.write(&format!("file-{n}"), bytes)
    }

    /// Signs a credential with `valet sign`. Returns the message if Valet refuses. `more` contains additional
    /// settings of the store.
    pub fn sign(
        &self,
        column: Column,
        blob: &str,
        spec: &Value,
        more: &Value,
    ) -> Result<std::result::Result<Key, String>> {
        let server = self.server(column);
        let mut azure = json!({
            "account": ACCOUNT, "container": CONTAINER, "endpoint": server.endpoint(), "addressingStyle": "Path",
        });
        if column.0 == By::Policy {
            azure["storedAccessPolicy"] = POLICY.into();
            azure["credentials"] = json!({"secretRef": {"name": "key"}});
        }
        let mut grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": if column.1 { "DownloadGrant" } else { "UploadGrant" },
            "metadata": {"name": "g"}, "spec": {"storeRef": {"kind": "ClusterObjectStore", "name": "it"}, "key": blob},
        });
        for (all, more) in [(&mut azure, more), (&mut grant["spec"], spec)] {
            if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
                all.extend(more.clone());
            }
        }
        let store = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": "it"},
            "spec": {
                "azureBlob": azure,
                "access": [{"namespaces": {"names": ["default"]}, "operations": ["Upload", "Download"], "credentials": "Allow"}],
            },
        });
        let mut command = process::clean(Command::new(self.valet));
        command.args(["sign", "--output", "curl", "--filename", "-"]);
        if column.0 == By::Identity {
            let token = self.scratch.write("token", "ey.of.the-service-account")?;
            command
                .args(["--online", "--trust-endpoint", &server.endpoint()])
                .env("SSL_CERT_FILE", server.ca())
                .env("AZURE_FEDERATED_TOKEN_FILE", token)
                .env("AZURE_TENANT_ID", "tenant")
                .env("AZURE_CLIENT_ID", "application")
                .env("AZURE_AUTHORITY_HOST", self.tokens.endpoint());
        } else {
            command.env("AZURE_STORAGE_KEY", server.key());
        }
        let documents = format!("{store}\n---\n{grant}\n");
        let output = process::run(command, documents.as_bytes(), Duration::from_secs(30))?;
        if !output.status.success() {
            return Ok(Err(output.stderr));
        }
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        let config = self.scratch.join(format!("{n}.cfg"));
        fs::write(&config, &output.stdout).context("curl.cfg cannot be written")?;
        let key = Key::read(config)?;
        Ok(Ok(match column.0 {
            By::Identity => key.trusting(server.ca()),
            _ => key,
        }))
    }

    /// As `sign`, but a refusal is an error. For a download, the blob is created first.
    pub fn key(&self, column: Column, blob: &str, spec: &Value, more: &Value) -> Result<Key> {
        if column.1 {
            self.server(column).put(CONTAINER, blob, BODY)?;
        }
        self.sign(column, blob, spec, more)?
            .map_err(|said| Error::new(format!("valet sign refused {blob}: {said}")))
    }
}
