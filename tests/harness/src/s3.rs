//! A real S3 server (versitygw, which keeps objects as files; MinIO and Garage, which differ), and an S3 client that is not
//! Valet's.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Context, Error, Process, Result, Scratch, Tools, control_plane, helper::Helper, net, process};

const START: Duration = Duration::from_secs(30);
const ADMIN: Duration = Duration::from_secs(30);

/// The server software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Software {
    /// Behaves as Amazon documents.
    #[default]
    Versitygw,
    /// Obeys headers that are not signed, and has STS. Of the tools' set `stores`.
    Minio,
    /// Knows neither versions nor conditions. Its program is named in `VALET_GARAGE`, as `hack/garage.sh` prints it; its one
    /// bucket is the one of [`GARAGE_BUCKET`].
    Garage,
}

/// The bucket that a Garage has from its start.
pub const GARAGE_BUCKET: &str = "conformance";

impl Software {
    fn program(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
            Self::Garage => "garage",
        }
    }

    /// Where the server says that it is up, and how.
    fn health(self) -> (&'static str, u16) {
        match self {
            Self::Versitygw => ("/health", 200),
            Self::Minio => ("/minio/health/ready", 200),
            // It lets nobody in without a signature.
            Self::Garage => ("/", 403),
        }
    }
}

/// What to start a server with.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Which server; versitygw unless said otherwise.
    pub software: Software,
    /// Where versitygw sends an event for every object that comes or goes. Somebody must listen there already.
    pub event_webhook_url: Option<String>,
    /// More arguments for versitygw itself, before its `posix`.
    pub args: Vec<String>,
    /// Environment variables of the server, as in `MINIO_NOTIFY_WEBHOOK_...`.
    pub env: Vec<(String, String)>,
    /// A file with a certificate authority whose servers MinIO may ask, an apiserver's for instance.
    pub trusted_ca: Option<PathBuf>,
}

/// A running S3 server, which speaks plain HTTP on loopback and has buckets in its paths. Dropping it, or the end
/// of the process, ends it and deletes what it holds.
pub struct S3Server {
    process: Mutex<Option<Process>>,
    scratch: Scratch,
    tools: Tools,
    options: S3Options,
    port: u16,
    access_key: String,
    secret_key: String,
    helper: OnceLock<std::result::Result<Helper, String>>,
    started_in: Duration,
}

/// What S3 answered.
#[derive(Clone, Debug)]
pub struct S3Response {
    /// The HTTP status.
    pub status: u16,
    /// Names and values as they came.
    pub headers: Vec<(String, String)>,
    /// The body; of an error, S3's XML.
    pub body: Vec<u8>,
}

impl S3Response {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Itself, if the status is below 300.
    ///
    /// # Errors
    /// If not, with what the server said.
    pub fn ok(self) -> Result<Self> {
        if self.status < 300 {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.body).into_owned();
        Err(Error::new(format!("S3 answered {}: {said}", self.status)))
    }
}

/// A version of an object, or a mark that it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The object's key.
    pub key: String,
    /// The version's ID.
    pub version: String,
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, with its quotes.
    pub e_tag: String,
    /// Whether this is a delete marker.
    pub deleted: bool,
}

impl S3Server {
    /// Starts a server and waits until it answers (about 0.2 s).
    ///
    /// # Errors
    /// If it ends or does not answer in time, with its last words.
    pub fn start(tools: &Tools) -> Result<Self> {
        Self::start_with(tools, S3Options::default())
    }

    /// As [`S3Server::start`], with options.
    ///
    /// # Errors
    /// As [`S3Server::start`].
    pub fn start_with(tools: &Tools, options: S3Options) -> Result<Self> {
        control_plane::retry_on_lost_port(|| {
            let began = Instant::now();
            let mut server = Self {
                process: Mutex::new(None),
                scratch: Scratch::new("s3")?,
                tools: tools.clone(),
                options: options.clone(),
                port: net::free_port()?,
                access_key: match options.software {
                    Software::Garage => format!("GK{}", net::random_hex(12)?),
                    _ => format!("VALETTEST{}", net::random_hex(4)?.to_ascii_uppercase()),
                },
                // Garage wants 32 bytes, the others do not mind.
                secret_key: net::random_hex(32)?,
                helper: OnceLock::new(),
                started_in: Duration::ZERO,
            };
            // No name may be the beginning of another one: versitygw takes that for one folder within the other.
            for folder in ["objects", "versions", "users", "users/.minio/certs/CAs"] {
                server.scratch.folder(folder)?;
            }
            if let Some(ca) = &options.trusted_ca {
                let copy = server.scratch.join("users/.minio/certs/CAs/ca.crt");
                std::fs::copy(ca, copy).context("cannot copy the certificate authority")?;
            }
            server.start_again()?;
            server.started_in = began.elapsed();
            Ok(server)
        })
    }

    /// How long the start took.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The loopback port, the same for all its life, also across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// us-east-1.
    pub fn region(&self) -> &'static str {
        "us-east-1"
    }

    /// The root user's access key.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The root user's secret key.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// The folder with its log, its objects as files, and its users.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    // --- outages ----------------------------------------------------------------------------------------------

    /// Ends the server at once; its objects stay.
    pub fn stop(&self) {
        self.slot().take();
    }

    /// Freezes the server: connections to it stay open, and nobody answers.
    pub fn pause(&self) {
        if let Some(process) = &*self.slot() {
            process.pause();
        }
    }

    /// Ends what [`S3Server::pause`] began.
    pub fn resume(&self) {
        if let Some(process) = &*self.slot() {
            process.resume();
        }
    }

    /// Starts the server again after [`S3Server::stop`], on the port that it always had.
    ///
    /// # Errors
    /// If it ends or does not answer in time, with its last words.
    pub fn start_again(&self) -> Result<()> {
        let mut slot = self.slot();
        if slot.is_some() {
            return Ok(());
        }
        let software = self.options.software;
        let command = match software {
            Software::Versitygw => self.versitygw(),
            Software::Minio => self.minio(),
            Software::Garage => self.garage()?,
        };
        let mut command = command;
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        let program = software.program();
        let process = Process::start(program, command, self.scratch.join(format!("{program}.log")))?;
        process.wait_until(START, "it answered", || {
            let (path, up) = software.health();
            net::http_get(self.port, path).is_ok_and(|(status, _)| status == up)
        })?;
        *slot = Some(process);
        Ok(())
    }

    fn versitygw(&self) -> Command {
        let mut command = self.tools.command("versitygw");
        command
            .env("ROOT_ACCESS_KEY", &self.access_key)
            .env("ROOT_SECRET_KEY", &self.secret_key)
            .arg(format!("--port=127.0.0.1:{}", self.port))
            .arg(format!("--region={}", self.region()))
            .arg(format!("--health={}", Software::Versitygw.health().0))
            .arg(format!("--iam-dir={}", self.scratch.join("users").display()))
            // A user who is gone must be gone now and not in two minutes.
            .arg("--iam-cache-disable")
            // As real stores do.
            .arg("--keep-alive");
        if let Some(url) = &self.options.event_webhook_url {
            command.arg(format!("--event-webhook-url={url}"));
        }
        command
            .args(&self.options.args)
            .arg("posix")
            .arg(format!("--versioning-dir={}", self.scratch.join("versions").display()))
            .arg(self.scratch.join("objects"));
        command
    }

    fn minio(&self) -> Command {
        let mut command = self.tools.command("minio");
        command
            .env("MINIO_ROOT_USER", &self.access_key)
            .env("MINIO_ROOT_PASSWORD", &self.secret_key)
            .env("MINIO_REGION", self.region())
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            // Its settings, of which there are none, and the certificates that it trusts.
            .env("HOME", self.scratch.join("users"))
            .args(["server", "--quiet", "--address"])
            .arg(format!("127.0.0.1:{}", self.port))
            .args(&self.options.args)
            .arg(self.scratch.join("objects"));
        command
    }

    fn garage(&self) -> Result<Command> {
        let program =
            std::env::var_os("VALET_GARAGE").context("VALET_GARAGE does not name a Garage; see hack/garage.sh")?;
        let (rpc, secret) = (net::free_port()?, net::random_hex(32)?);
        let folder = |name: &str| self.scratch.join(name).display().to_string();
        let config = format!(
            "metadata_dir = \"{}\"\ndata_dir = \"{}\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n\
             [s3_api]\ns3_region = \"{}\"\napi_bind_addr = \"127.0.0.1:{}\"\n",
            folder("users"),
            folder("objects"),
            self.region(),
            self.port
        );
        let config = self.scratch.write("garage.toml", config)?;
        let mut command = process::clean(Command::new(program));
        command
            .env("GARAGE_DEFAULT_ACCESS_KEY", &self.access_key)
            .env("GARAGE_DEFAULT_SECRET_KEY", &self.secret_key)
            .env("GARAGE_DEFAULT_BUCKET", GARAGE_BUCKET)
            .arg("--config")
            .arg(config)
            .args(["--allow-world-readable-secrets", "true"])
            .args(["server", "--single-node", "--default-bucket"]);
        Ok(command)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    // --- buckets and objects, as root -------------------------------------------------------------------------

    /// One request to S3, signed as root. `bucket` and `key` may be empty. The key is sent as it is, byte for byte,
    /// percent-encoded once.
    ///
    /// # Errors
    /// If the server does not answer within 30 s. Whatever it answers is no error: see [`S3Response::ok`].
    pub fn request(
        &self,
        method: &str,
        bucket: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<S3Response> {
        let request = json!({
            "op": "s3", "method": method, "bucket": bucket, "key": key, "query": query, "headers": headers,
        });
        let (answer, body) = self.ask(request, body)?;
        response(&answer, body)
    }

    /// Makes a bucket (3 to 63 lower-case letters, digits, '.' and '-').
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.request("PUT", bucket, "", &[], &[], &[])?.ok()?;
        Ok(())
    }

    /// Makes a bucket that keeps the versions of its objects.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_versioned_bucket(&self, bucket: &str) -> Result<()> {
        self.create_bucket(bucket)?;
        let settings = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                        <Status>Enabled</Status></VersioningConfiguration>";
        self.request("PUT", bucket, "", &[("versioning", "")], &[], settings.as_bytes())?
            .ok()?;
        Ok(())
    }

    /// Writes an object.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Result<S3Response> {
        self.request("PUT", bucket, key, &[], &[], body)?.ok()
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let response = self.request("GET", bucket, key, &[], &[], &[])?;
        match response.status {
            404 => Ok(None),
            _ => Ok(Some(response.ok()?.body)),
        }
    }

    /// Asks for an object's metadata, in headers; `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn head(&self, bucket: &str, key: &str) -> Result<Option<S3Response>> {
        let headers = [("x-amz-checksum-mode", "ENABLED")];
        let response = self.request("HEAD", bucket, key, &[], &headers, &[])?;
        match response.status {
            404 => Ok(None),
            _ => Ok(Some(response.ok()?)),
        }
    }

    /// Deletes an object (in a versioned bucket: puts a delete marker over it).
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.request("DELETE", bucket, key, &[], &[], &[])?.ok()?;
        Ok(())
    }

    /// Every version of every object whose key starts with `prefix`, newest first per key. In a bucket that keeps
    /// no versions, every object.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn versions(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectVersion>> {
        let request = json!({"op": "versions", "bucket": bucket, "prefix": prefix});
        let (answer, body) = self.ask(request, &[])?;
        response(&answer, body)?.ok()?;
        let versions = answer["versions"].as_array().context("the helper listed no versions")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(versions
            .iter()
            .map(|version| ObjectVersion {
                key: text(&version["key"]),
                version: text(&version["version"]),
                size: version["size"].as_u64().unwrap_or_default(),
                e_tag: text(&version["e_tag"]),
                deleted: version["deleted"] == true,
            })
            .collect())
    }

    /// Sets a bucket's policy (JSON), which says what other users may do.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put_bucket_policy(&self, bucket: &str, policy: &Value) -> Result<()> {
        let body = policy.to_string();
        self.request("PUT", bucket, "", &[("policy", "")], &[], body.as_bytes())?
            .ok()?;
        Ok(())
    }

    /// Makes a user, who may do nothing until a bucket's policy says otherwise.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_user(&self, access_key: &str, secret_key: &str) -> Result<()> {
        self.admin(&[
            "create-user",
            "--access",
            access_key,
            "--secret",
            secret_key,
            "--role",
            "user",
        ])
    }

    /// Deletes a user: from now on nothing that they have signed is worth anything.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete_user(&self, access_key: &str) -> Result<()> {
        self.admin(&["delete-user", "--access", access_key])
    }

    fn admin(&self, args: &[&str]) -> Result<()> {
        let mut command = self.tools.command("versitygw");
        command
            .env("ADMIN_ACCESS_KEY_ID", &self.access_key)
            .env("ADMIN_SECRET_ACCESS_KEY", &self.secret_key)
            .env("ADMIN_ENDPOINT_URL", self.endpoint())
            .env("ADMIN_REGION", self.region())
            .arg("admin")
            .args(args);
        process::run_ok(command, &[], ADMIN)?;
        Ok(())
    }

    fn ask(&self, mut request: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        let helper = self
            .helper
            .get_or_init(|| Helper::start(&self.tools).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(Error::new)?;
        request["endpoint"] = self.endpoint().into();
        request["region"] = self.region().into();
        request["access_key"] = self.access_key.clone().into();
        request["secret_key"] = self.secret_key.clone().into();
        helper.ask(request, body)
    }
}

fn response(answer: &Value, body: Vec<u8>) -> Result<S3Response> {
    let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let headers = answer["headers"].as_array().into_iter().flatten();
    Ok(S3Response {
        status: status.context("the helper gave no status")?,
        headers: headers
            .map(|pair| {
                let at = |n: usize| pair[n].as_str().unwrap_or_default().to_owned();
                (at(0), at(1))
            })
            .collect(),
        body,
    })
}
