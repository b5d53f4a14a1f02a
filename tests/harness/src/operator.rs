//! Valet itself, as a subprocess.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Context, ControlPlane, Process, Result, control_plane, net, process};

/// Far longer than a start takes, also of an unoptimised build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The program: what `VALET_BIN` names, else the `valet` next to the program that asks.
///
/// # Errors
/// If there is none.
pub fn find_valet() -> Result<PathBuf> {
    let path = match env::var_os("VALET_BIN") {
        Some(path) => PathBuf::from(path),
        None => env::current_exe()
            .context("cannot find this program")?
            .with_file_name("valet"),
    };
    path.canonicalize().context(format_args!(
        "no Valet at {}; build it (cargo build --bin valet) or name it in VALET_BIN",
        path.display()
    ))
}

/// What `valet crds` prints: Valet's kinds, to be applied.
///
/// # Errors
/// If the program fails.
pub fn crds(valet: &Path) -> Result<String> {
    let mut command = process::clean(Command::new(valet));
    command.arg("crds");
    Ok(process::run_ok(command, &[], START)?.text())
}

/// What to start the operator with.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// Watch this namespace only. Absent: all of them.
    pub namespace: Option<String>,
    /// Whose rights it has. Absent: those of [`control_plane::OPERATOR`], who may do everything. A service
    /// account's token (see [`ControlPlane::service_account_token`]) shows whether its role suffices.
    pub token: Option<String>,
    /// Its kubeconfig file, in place of one that the harness writes.
    pub kubeconfig: Option<PathBuf>,
    /// More arguments for `valet controller`.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
}

/// A running operator. Dropping it, or the end of the process, ends it.
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    /// Starts `BINARY controller` against a control plane and waits until its `/readyz` says 200. Its log goes to
    /// `operator-N.log` in the control plane's scratch folder. It logs JSON at level `info` unless `args` or `env` say
    /// otherwise, and finds no AWS credentials on this machine, neither in the environment nor at home.
    ///
    /// # Errors
    /// If it ends or is not ready in time, with its last words.
    pub fn start(binary: &Path, plane: &ControlPlane, options: &OperatorOptions) -> Result<Self> {
        control_plane::retry_on_lost_port(|| {
            let operator = Self::launch(binary, plane, options)?;
            operator.wait_ready(START)?;
            Ok(operator)
        })
    }

    /// As [`Operator::start`], without waiting: for an operator that is expected to have a hard time.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn launch(binary: &Path, plane: &ControlPlane, options: &OperatorOptions) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = net::free_port()?;
        let kubeconfig = match (&options.kubeconfig, &options.token) {
            (Some(file), _) => file.clone(),
            (None, Some(token)) => plane.kubeconfig_for_token(token)?,
            (None, None) => plane.operator_kubeconfig().to_owned(),
        };
        let mut command = process::clean(Command::new(binary));
        command
            .env("HOME", plane.scratch().join("home"))
            // Off AWS the SDK's default chain asks a link-local address and waits for an answer.
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("VALET_LOG_FORMAT", "json")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .arg("controller")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg(format!("--context={}", control_plane::CONTEXT))
            .arg(format!("--http-address=127.0.0.1:{port}"));
        if let Some(namespace) = &options.namespace {
            command.arg("--namespace").arg(namespace);
        }
        command.args(&options.args);
        let log = plane.scratch().join(format!("operator-{n}.log"));
        let process = Process::start(&format!("operator-{n}"), command, log)?;
        Ok(Self { process, port })
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// If the operator ends, or `timeout` is over; with its last words.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        self.process.wait_until(timeout, "it was ready", || {
            matches!(self.http_get("/readyz"), Ok((200, _)))
        })
    }

    /// The loopback port of its HTTP server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `GET` on the operator's own HTTP port, as in `/livez`: status code and body.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn http_get(&self, path: &str) -> Result<(u16, String)> {
        net::http_get(self.port, path)
    }

    /// The operator's metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.http_get("/metrics")?.1)
    }

    /// Whether it is the replica that works, by its own word.
    pub fn leads(&self) -> bool {
        self.metrics()
            .is_ok_and(|text| text.lines().any(|line| line == "valet_leader 1"))
    }

    /// Ends it at once (SIGKILL): a crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to end (SIGTERM) and returns how it did.
    ///
    /// # Errors
    /// If it is still running after 30 s, the grace that Kubernetes gives a pod.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.process.terminate(Duration::from_secs(30))
    }

    /// The process, to be paused for instance.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The operator's log file.
    pub fn log(&self) -> PathBuf {
        self.process.log().to_owned()
    }

    /// Everything that the operator has logged.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }
}
