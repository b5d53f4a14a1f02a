//! A store under test, and grants for it that `valet sign` signs.

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

/// A kind of credential, which is a column of the table.
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
    /// All columns in the order of the table.
    pub const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Form];
}

/// A server, with everything that the tests need.
pub struct Store<'a> {
    pub server: S3Server,
    pub software: Software,
    /// How the proxy in front of the server differs from other stores.
    pub oddity: Option<Oddity>,
    /// The endpoint of the server or of the proxy.
    endpoint: String,
    valet: &'a Path,
    scratch: Scratch,
    files: AtomicU32,
}

/// The bucket for all tests. It has versioning.
pub const BUCKET: &str = GARAGE_BUCKET;
/// An object that no credential allows, and its content.
pub const SECRET: (&str, &[u8]) = ("secret/salaries", b"everybody's salary");

/// The capabilities that `status.capabilities` of a store without missing capabilities lists after a conformance
/// check.
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
    /// Starts the server.
    ///
    /// # Errors
    /// Returns an error if the server does not start.
    pub fn start(tools: &Tools, software: Software, oddity: Option<Oddity>, valet: &'a Path) -> Result<Self> {
        let options = S3Options {
            software,
            ..S3Options::default()
        };
        let server = S3Server::start_with(tools, options)?;
        if software == Software::Garage {
            // Garage creates its bucket shortly after it starts to answer, and supports no versioning.
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

    /// The title of the table.
    pub fn name(&self) -> &'static str {
        match self.oddity {
            Some(Oddity::NoConditions | Oddity::NoConditionsAndCopies) => {
                "A store without conditional writes (simulated)"
            }
            Some(Oddity::ObjectLock) => "A bucket with Object Lock (simulated)",
            Some(Oddity::None) | None => page::name(self.software),
        }
    }

    /// Whether the store supports conditional writes. A store without them answers 501.
    pub fn has_conditions(&self) -> bool {
        self.oddity != Some(Oddity::NoConditions)
    }

    /// Whether the store accepts uploads only with a checksum.
    pub fn wants_checksums(&self) -> bool {
        self.oddity == Some(Oddity::ObjectLock)
    }

    /// Adds the constraints that the store needs to a grant, unless the grant sets them.
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

    /// The status that the operator would write for this store. `None` for a store that is not special.
    fn status(&self) -> Option<Value> {
        let lacks = |name: &&&str| !self.has_conditions() && matches!(**name, "WriteOnce" | "Multipart/WriteOnce");
        let mut capabilities: Vec<_> = CAPABILITIES.iter().filter(|name| !lacks(name)).copied().collect();
        if self.wants_checksums() {
            capabilities.push("RequiresChecksum");
        }
        self.oddity
            .map(|_| json!({"observedGeneration": 1, "capabilities": capabilities}))
    }

    /// Creates a file with these bytes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn file(&self, bytes: &[u8]) -> Result<PathBuf> {
        let n = self.files.fetch_add(1, Ordering::Relaxed);
        self.scratch.write(&format!("file-{n}"), bytes)
    }

    /// Reads an object as root.
    ///
    /// # Errors
    /// Returns an error if the store does not answer.
    pub fn stored(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.server.get(BUCKET, key)
    }

    /// The message with which `valet sign` refuses a grant. `None` if it signs the grant.
    ///
    /// # Errors
    /// Returns an error if the program cannot be run.
    pub fn refusal(&self, column: Column, key: &str, spec: Value, arguments: &[&str]) -> Result<Option<String>> {
        Ok(self.run(column, key, spec, json!({}), arguments)?.err())
    }

    /// Signs a grant for an object with `valet sign`, or returns the message of a refusal.
    ///
    /// # Errors
    /// Returns an error if the program cannot be run.
    pub fn sign(&self, column: Column, key: &str, spec: Value) -> Result<std::result::Result<Key, String>> {
        self.sign_with(column, key, spec, json!({}))
    }

    /// As [`Store::sign`], with additional settings of the store's credentials.
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

    /// Returns the `parts.json` of an initiated multipart upload.
    ///
    /// # Errors
    /// Returns an error if the program cannot be run, or if Valet refuses the grant.
    pub fn sign_parts(&self, key: &str, spec: Value, credentials: Value, upload: &str) -> Result<String> {
        let arguments = ["--output", "parts", "--upload-id", upload];
        let spec = self.fitted(Column::Put, spec);
        let signed = self.run(Column::Put, key, spec, credentials, &arguments)?;
        let signed = signed.map_err(|said| Error::new(format!("valet sign refused {key}: {said}")))?;
        String::from_utf8(signed).context("valet printed no text")
    }

    /// Runs `valet sign`. Returns its output, or the message of a refusal.
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
            // The result that a conformance check would have, so that Valet signs the form.
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

    /// As [`Store::sign`], but a refusal is an error.
    ///
    /// # Errors
    /// Returns an error if the program cannot be run, or if Valet refuses the grant.
    pub fn key(&self, column: Column, key: &str, spec: Value) -> Result<Key> {
        self.sign(column, key, spec)?
            .map_err(|said| Error::new(format!("valet sign refused {key}: {said}")))
    }
}

/// Builds a grant for an object in the store `it`. The column determines the kind and the mode.
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
