//! A store under test, and grants for it signed by Valet's own signer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use valet_harness::{
    Context, Error, GARAGE_BUCKET, OddStore, Oddity, Result, S3Options, S3Server, Scratch, Software, Tools, poll,
    process,
};

use crate::{cells::DIGEST, key::Key, page};

/// A way in which a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// A presigned PUT: an UploadGrant with mode Put.
    Put,
    /// A presigned GET: a DownloadGrant.
    Get,
    /// A POST form: an UploadGrant with mode PostForm.
    Form,
}

impl Column {
    /// All of them, in the table's order.
    pub const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Form];
}

/// One server with what the cells need of it.
pub struct Store<'a> {
    pub server: S3Server,
    pub software: Software,
    /// What a proxy in front of it does otherwise.
    pub oddity: Option<Oddity>,
    /// Where keys are for: the server's address, or the proxy's.
    endpoint: String,
    valet: &'a Path,
    scratch: Scratch,
    files: AtomicU32,
}

/// The bucket of all cells; it keeps versions.
pub const BUCKET: &str = GARAGE_BUCKET;
/// An object that no key is for, and what is in it.
pub const SECRET: (&str, &[u8]) = ("secret/salaries", b"everybody's salary");

/// What `status.capabilities` lists of a store that lacks nothing, as after a trial with real keys.
const CAPABILITIES: [&str; 21] = [
    "ContentType",
    "ContentLength",
    "ChecksumSHA256",
    "ChecksumMD5",
    "WriteOnce",
    "Version",
    "ResponseHeaders",
    "SignedHeadersOnly",
    "PostForm",
    "PostForm/ContentType",
    "PostForm/ContentLength",
    "PostForm/ContentLengthRange",
    "PostForm/ChecksumSHA256",
    "PostForm/KeyPrefix",
    "PostForm/SignedHeadersOnly",
    "Multipart",
    "Multipart/ContentType",
    "Multipart/ContentLength",
    "Multipart/ContentLengthRange",
    "Multipart/WriteOnce",
    "Multipart/SignedHeadersOnly",
];

impl<'a> Store<'a> {
    /// Starts it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(tools: &Tools, software: Software, oddity: Option<Oddity>, valet: &'a Path) -> Result<Self> {
        let options = S3Options {
            software,
            ..S3Options::default()
        };
        let server = S3Server::start_with(tools, options)?;
        if software == Software::Garage {
            // It has its bucket, soon after it answers, and none that keeps versions.
            poll(Duration::from_secs(30), || server.head(BUCKET, "").ok().flatten())
                .context("Garage has no bucket")?;
        } else {
            server.create_versioned_bucket(BUCKET)?;
        }
        server.put(BUCKET, SECRET.0, SECRET.1)?;
        let endpoint = match oddity {
            Some(oddity) => OddStore::before(&server, oddity)?.endpoint(),
            None => server.endpoint(),
        };
        Ok(Self {
            server,
            software,
            oddity,
            endpoint,
            valet,
            scratch: Scratch::new("conformance")?,
            files: AtomicU32::new(0),
        })
    }

    /// What the table is called.
    pub fn name(&self) -> &'static str {
        match self.oddity {
            Some(Oddity::NoConditions | Oddity::NoConditionsAndCopies) => {
                "A store without conditional writes (simulated)"
            }
            Some(Oddity::ObjectLock) => "A bucket with Object Lock (simulated)",
            Some(Oddity::None) | None => page::name(self.software),
        }
    }

    /// Whether it answers 501 to conditional writes.
    pub fn has_conditions(&self) -> bool {
        self.oddity != Some(Oddity::NoConditions)
    }

    /// Whether it takes uploads only with a checksum.
    pub fn wants_checksums(&self) -> bool {
        self.oddity == Some(Oddity::ObjectLock)
    }

    /// A grant with what this store's owner tells people to add, where the grant says nothing of it.
    fn fitted(&self, column: Column, mut spec: Value) -> Value {
        let constraints = spec.get("constraints").cloned().unwrap_or_else(|| json!({}));
        let has = |name: &str| constraints.get(name).is_some();
        match column {
            Column::Put if !self.has_conditions() && !has("overwrite") => {
                spec["constraints"]["overwrite"] = "Allow".into();
            }
            Column::Put if self.wants_checksums() && !has("checksumSHA256") && !has("checksumMD5") => {
                spec["constraints"]["checksumSHA256"] = DIGEST.into();
            }
            Column::Form if self.wants_checksums() && !has("checksumSHA256") => {
                spec["constraints"]["checksumSHA256"] = DIGEST.into();
            }
            Column::Put | Column::Form | Column::Get => {}
        }
        spec
    }

    /// What the operator would have written into this store's status. Nothing of a store that is like any other.
    fn status(&self) -> Option<Value> {
        let lacks = |name: &&&str| !self.has_conditions() && matches!(**name, "WriteOnce" | "Multipart/WriteOnce");
        let mut capabilities: Vec<_> = CAPABILITIES.iter().filter(|name| !lacks(name)).copied().collect();
        if self.wants_checksums() {
            capabilities.push("RequiresChecksum");
        }
        self.oddity
            .map(|_| json!({"observedGeneration": 1, "capabilities": capabilities}))
    }

    /// A file with these bytes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, bytes: &[u8]) -> Result<PathBuf> {
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        self.scratch.write(&format!("file-{n}"), bytes)
    }

    /// The object of this key, as the store's root reads it.
    ///
    /// # Errors
    /// If the store does not answer.
    pub fn stored(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.server.get(BUCKET, key)
    }

    /// What `valet sign` says when it refuses a grant, as it is; `None` if it signs.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn refusal(&self, column: Column, key: &str, spec: Value, arguments: &[&str]) -> Result<Option<String>> {
        Ok(self.run(column, key, spec, json!({}), arguments)?.err())
    }

    /// A key for an object, signed by `valet sign`; or what it says when it refuses.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn sign(&self, column: Column, key: &str, spec: Value) -> Result<std::result::Result<Key, String>> {
        self.sign_with(column, key, spec, json!({}))
    }

    /// The same with more settings of the store's credentials.
    ///
    /// # Errors
    /// As [`Store::sign`].
    pub fn sign_with(
        &self,
        column: Column,
        key: &str,
        spec: Value,
        credentials: Value,
    ) -> Result<std::result::Result<Key, String>> {
        let arguments = ["--output", "curl"];
        let signed = self.run(column, key, self.fitted(column, spec), credentials, &arguments)?;
        let Ok(signed) = signed else {
            return Ok(signed.map(|_| unreachable!("it is an error")));
        };
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        let config = self.scratch.join(format!("{n}.cfg"));
        fs::write(&config, &signed).context("curl.cfg cannot be written")?;
        Key::read(config).map(Ok)
    }

    /// The `parts.json` of an upload in parts that was begun.
    ///
    /// # Errors
    /// Also if Valet refuses.
    pub fn sign_parts(&self, key: &str, spec: Value, credentials: Value, upload: &str) -> Result<String> {
        let arguments = ["--output", "parts", "--upload-id", upload];
        let spec = self.fitted(Column::Put, spec);
        let signed = self.run(Column::Put, key, spec, credentials, &arguments)?;
        let signed = signed.map_err(|said| Error::new(format!("valet sign refused {key}: {said}")))?;
        String::from_utf8(signed).context("valet printed no text")
    }

    /// Runs `valet sign`: what it prints, or what it says when it refuses.
    fn run(
        &self,
        column: Column,
        key: &str,
        spec: Value,
        credentials: Value,
        arguments: &[&str],
    ) -> Result<std::result::Result<Vec<u8>, String>> {
        let mut store = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": "it"},
            "spec": {
                "s3": {
                    "bucket": BUCKET, "region": self.server.region(), "endpoint": self.endpoint,
                    "addressingStyle": "Path",
                },
                "access": [{"namespaces": {"names": ["default"]}, "operations": ["Upload", "Download"], "credentials": "Allow"}],
            },
        });
        let asks = credentials.get("assumeRole").is_some();
        if credentials != json!({}) {
            store["spec"]["s3"]["credentials"] = credentials;
        }
        if let Some(status) = self.status() {
            store["status"] = status;
        } else if key.ends_with('/') {
            // What a trial with real keys would say, so that the form is made which it tries.
            store["status"] = json!({"capabilities": ["PostForm/KeyPrefix"]});
        }
        let grant = grant(column, key, &spec);
        let mut command = process::clean(Command::new(self.valet));
        command
            .args(["sign", "--filename", "-"])
            .args(arguments)
            .args(
                asks.then(|| ["--online".to_owned(), format!("--trust-endpoint={}", self.endpoint)])
                    .into_iter()
                    .flatten(),
            )
            .env("AWS_ACCESS_KEY_ID", self.server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", self.server.secret_key())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let documents = format!("{store}\n---\n{grant}\n");
        let output = process::run(command, documents.as_bytes(), Duration::from_secs(30))?;
        Ok(if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(output.stderr)
        })
    }

    /// The same where a refusal is a mistake.
    ///
    /// # Errors
    /// Also if Valet refuses.
    pub fn key(&self, column: Column, key: &str, spec: Value) -> Result<Key> {
        self.sign(column, key, spec)?
            .map_err(|said| Error::new(format!("valet sign refused {key}: {said}")))
    }
}

/// A grant of the store `it` for an object, by which of the kinds and modes the column says.
pub fn grant(column: Column, key: &str, spec: &Value) -> Value {
    let kind = if column == Column::Get {
        "DownloadGrant"
    } else {
        "UploadGrant"
    };
    let mut grant = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": {"name": "g"},
        "spec": {"storeRef": {"kind": "ClusterObjectStore", "name": "it"}, "key": key},
    });
    if let (Some(all), Some(more)) = (grant["spec"].as_object_mut(), spec.as_object()) {
        all.extend(more.clone());
    }
    if column == Column::Form {
        grant["spec"]["mode"] = "PostForm".into();
    }
    grant
}
