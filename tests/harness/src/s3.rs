//! A real S3 server (versitygw, which keeps objects as files; MinIO and Garage, which differ), and an S3 client that is not
//! Valet's.

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
