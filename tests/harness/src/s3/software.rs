//! The S3 server programs, and the commands that start them.

use std::process::Command;

use super::S3Server;
use crate::{Context, Result, net, process};

/// The server software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Software {
    /// Behaves as Amazon documents.
    #[default]
    Versitygw,
    /// Obeys unsigned headers, and has an STS. It is in the set `stores` of the tools.
    Minio,
    /// Supports neither versioning nor conditional writes. `VALET_GARAGE` contains the path of the program, which
    /// `hack/garage.sh` prints. It has only the bucket [`GARAGE_BUCKET`].
    Garage,
}

/// The bucket that Garage creates at its start.
pub const GARAGE_BUCKET: &str = "conformance";

impl Software {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
            Self::Garage => "garage",
        }
    }

    /// The path of the health check, and the expected status.
    pub(super) fn health(self) -> (&'static str, u16) {
        match self {
            Self::Versitygw => ("/health", 200),
            Self::Minio => ("/minio/health/ready", 200),
            // Garage rejects all requests without a signature.
            Self::Garage => ("/", 403),
        }
    }
}

impl S3Server {
    /// The command that starts the server.
    pub(super) fn command(&self) -> Result<Command> {
        match self.options.software {
            Software::Versitygw => Ok(self.versitygw()),
            Software::Minio => Ok(self.minio()),
            Software::Garage => self.garage(),
        }
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
            // A deleted user must lose access at once, not after the two minutes of the cache.
            .arg("--iam-cache-disable")
            // Real stores also use keep-alive.
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
            // The folder for MinIO's settings (none) and for the certificates that it trusts.
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
}
