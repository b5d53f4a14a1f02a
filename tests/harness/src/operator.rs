//! Runs the operator as a child process.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Context, ControlPlane, Process, Result, control_plane, net, process};

/// Much longer than a start takes, even with a debug build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Returns the path of the program: the value of `VALET_BIN`, or otherwise the `valet` next to the current program.
///
/// # Errors
/// Returns an error if there is no such program.
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

/// Returns the output of `valet crds`: the manifests of Valet's CRDs.
///
/// # Errors
/// Returns an error if the program fails.
pub fn crds(valet: &Path) -> Result<String> {
    let mut command = process::clean(Command::new(valet));
    command.arg("crds");
    Ok(process::run_ok(command, &[], START)?.text())
}

/// Options of the operator.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// The only namespace that the operator serves. Default: all namespaces.
    pub namespace: Option<String>,
    /// The token that the operator authenticates with. Default: the user [`control_plane::OPERATOR`] with all
    /// permissions. With the token of a service account (see [`ControlPlane::service_account_token`]), a test checks
    /// that its role is sufficient.
    pub token: Option<String>,
    /// The kubeconfig file of the operator. By default, the harness writes one.
    pub kubeconfig: Option<PathBuf>,
    /// Additional arguments for `valet controller`.
    pub args: Vec<String>,
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
}

/// A running operator. It stops when the value is dropped or the process ends.
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    /// Starts `BINARY controller` for a control plane and waits until `/readyz` returns 200. The log is
    /// `operator-N.log` in the scratch folder of the control plane. The operator logs JSON at level `info` unless
    /// `args` or `env` change this. It finds no AWS credentials of this machine, neither in the environment nor in
    /// the home folder.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the operator exits or is not ready in time.
    pub fn start(binary: &Path, plane: &ControlPlane, options: &OperatorOptions) -> Result<Self> {
        control_plane::retry_on_lost_port(|| {
            let operator = Self::launch(binary, plane, options)?;
            operator.wait_ready(START)?;
            Ok(operator)
        })
    }

    /// As [`Operator::start`], but does not wait, for an operator that may not become ready.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started.
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
            // Outside AWS, the SDK's default credential chain sends a request to a link-local address and waits for
            // the response.
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

    /// Waits until `/readyz` returns 200.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the operator exits, or is not ready within `timeout`.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        self.process.wait_until(timeout, "it was ready", || {
            matches!(self.http_get("/readyz"), Ok((200, _)))
        })
    }

    /// The loopback port of its HTTP server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a GET request to the operator's HTTP port, for example for `/livez`. Returns the status code and the
    /// body.
    ///
    /// # Errors
    /// Returns an error if the operator does not answer.
    pub fn http_get(&self, path: &str) -> Result<(u16, String)> {
        net::http_get(self.port, path)
    }

    /// The operator's metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// Returns an error if the operator does not answer.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.http_get("/metrics")?.1)
    }

    /// Whether the operator's metrics say that it is the leader.
    pub fn leads(&self) -> bool {
        self.metrics()
            .is_ok_and(|text| text.lines().any(|line| line == "valet_leader 1"))
    }

    /// Kills the operator (SIGKILL), as in a crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Stops the operator (SIGTERM) and returns its exit status.
    ///
    /// # Errors
    /// Returns an error if the operator is still running after 30 s, the default grace period of Kubernetes.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.process.terminate(Duration::from_secs(30))
    }

    /// The process, for example to freeze it.
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
