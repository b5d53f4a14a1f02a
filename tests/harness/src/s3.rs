//! Real S3 servers (versitygw, which stores objects as files, and also MinIO and Garage), and an S3 client that does
//! not use Valet's code.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use crate::{Context, Process, Result, Scratch, Tools, control_plane, helper::Helper, net};

mod objects;
mod software;

pub use objects::{ObjectVersion, S3Response};
pub use software::{GARAGE_BUCKET, Software};

const START: Duration = Duration::from_secs(30);

/// Options of an S3 server.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// The server software. Default: versitygw.
    pub software: Software,
    /// The URL to which versitygw sends an event for each created or deleted object. A server must already listen
    /// there.
    pub event_webhook_url: Option<String>,
    /// Additional arguments of versitygw before `posix`.
    pub args: Vec<String>,
    /// Environment variables of the server, for example `MINIO_NOTIFY_WEBHOOK_...`.
    pub env: Vec<(String, String)>,
    /// A file with a CA certificate that MinIO trusts for its own requests, for example to an apiserver.
    pub trusted_ca: Option<PathBuf>,
}

/// A running S3 server. It uses plain HTTP on loopback and path-style addressing. When the value is dropped or the
/// process ends, the server is stopped and its objects are deleted.
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

impl S3Server {
    /// Starts a server and waits until it answers (about 0.2 s).
    ///
    /// # Errors
    /// Returns an error with the last log lines if the server exits or does not answer in time.
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
                // Garage needs 32 bytes. The other servers accept any length.
                secret_key: net::random_hex(32)?,
                helper: OnceLock::new(),
                started_in: Duration::ZERO,
            };
            // No folder name may be a prefix of another one, because versitygw would treat one folder as a part of
            // the other.
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

    /// The duration of the start.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The loopback port. It does not change, also across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The region, us-east-1.
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

    /// The folder with the log, the objects as files, and the users of the server.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    // --- outages ----------------------------------------------------------------------------------------------

    /// Kills the server. Its objects are kept.
    pub fn stop(&self) {
        self.slot().take();
    }

    /// Freezes the server: its connections stay open, but it does not answer.
    pub fn pause(&self) {
        if let Some(process) = &*self.slot() {
            process.pause();
        }
    }

    /// Continues the server after [`S3Server::pause`].
    pub fn resume(&self) {
        if let Some(process) = &*self.slot() {
            process.resume();
        }
    }

    /// Starts the server again on the same port after [`S3Server::stop`].
    ///
    /// # Errors
    /// Returns an error with the last log lines if the server exits or does not answer in time.
    pub fn start_again(&self) -> Result<()> {
        let mut slot = self.slot();
        if slot.is_some() {
            return Ok(());
        }
        let software = self.options.software;
        let mut command = self.command()?;
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

    fn slot(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}
