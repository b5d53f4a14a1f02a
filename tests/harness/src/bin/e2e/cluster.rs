//! The cluster of the end-to-end tests: a separate node on this machine, or an existing cluster.

use std::{
    env,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use valet_harness::{Context, Error, Node, Result, Scratch, Tools, node, process};

/// Longer than any command of the tests waits.
const LONGEST: Duration = Duration::from_secs(240);

/// A cluster, used through kubectl and helm with an explicit kubeconfig and context.
pub struct Cluster {
    // Dropped first, because the kubeconfig belongs to this node.
    node: Option<Node>,
    tools: Tools,
    kubeconfig: PathBuf,
    context: String,
    way_in: String,
    scratch: Scratch,
}

impl Cluster {
    /// Starts a separate node in the namespaces of this program.
    pub fn own(tools: &Tools, apart: &node::Apart, images: &[node::Image]) -> Result<Self> {
        let node = Node::start(tools, apart, images)?;
        Ok(Self {
            tools: tools.clone(),
            kubeconfig: node.plane().kubeconfig().to_owned(),
            context: valet_harness::control_plane::CONTEXT.into(),
            way_in: apart.way_in(),
            scratch: Scratch::new("e2e")?,
            node: Some(node),
        })
    }

    /// Uses the existing cluster of a context in the kubeconfig.
    pub fn named(tools: &Tools, context: &str) -> Result<Self> {
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
        let kubeconfig = env::var_os("E2E_KUBECONFIG")
            .or_else(|| env::var_os("KUBECONFIG"))
            .map(PathBuf::from)
            .or_else(home)
            .context("E2E_KUBECONFIG does not say where the kubeconfig file is")?;
        let cluster = Self {
            node: None,
            tools: tools.clone(),
            kubeconfig,
            context: context.into(),
            way_in: String::new(),
            scratch: Scratch::new("e2e")?,
        };
        cluster.kubectl(&["version"])?;
        Ok(cluster)
    }

    /// The separate node, or `None` for an existing cluster.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The folder for files of the tests. It is kept when a test fails.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// A command with which a user can query this cluster in another terminal.
    pub fn how_to_ask(&self) -> String {
        format!(
            "{}{} --kubeconfig {} --context {}",
            self.way_in,
            self.tools.program("kubectl").display(),
            self.kubeconfig.display(),
            self.context
        )
    }

    /// A kubectl command to which the caller adds arguments.
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.command("kubectl", "--context");
        command.arg(format!("--cache-dir={}", self.scratch.join("kubectl-cache").display()));
        command
    }

    fn command(&self, program: &str, context: &str) -> Command {
        let mut command = self.tools.command(program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg(context)
            .arg(&self.context);
        if self.node.is_some() {
            // The kubeconfig of an existing cluster can contain login programs, which need a home folder.
            command.env("HOME", self.scratch.path());
        }
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.scratch.join("helm"));
        }
        command
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// Returns an error with the output of kubectl if it fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_in("", args)
    }

    /// As [`Cluster::kubectl`], with text on standard input.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl_in(&self, stdin: &str, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        Ok(process::run_ok(command, stdin.as_bytes(), LONGEST)?.text())
    }

    /// Runs a kubectl command that must fail, and returns its error output.
    ///
    /// # Errors
    /// Returns an error if the command succeeds.
    pub fn kubectl_refused(&self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        let output = process::run(command, &[], LONGEST)?;
        if output.status.success() {
            return Err(Error::new(format!("kubectl {} was not refused", args.join(" "))));
        }
        Ok(output.stderr)
    }

    /// As [`Cluster::kubectl`] with `--output json`, and parses the output.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).context(format_args!("kubectl {} did not print JSON", args.join(" ")))
    }

    /// Reads one field of one object with JSONPath. Empty if the field is not set.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn field(&self, args: &[&str], path: &str) -> Result<String> {
        self.kubectl(&[&["get"], args, &["--output", &format!("jsonpath={{{path}}}")]].concat())
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn exists(&self, args: &[&str]) -> Result<bool> {
        let name = self.kubectl(&[&["get"], args, &["--ignore-not-found", "--output", "name"]].concat())?;
        Ok(!name.trim().is_empty())
    }

    /// Runs `kubectl apply` with some objects.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl_in(&list.to_string(), &["apply", "--filename", "-"])
            .map(|_| ())
    }

    /// Runs helm and returns its output.
    ///
    /// # Errors
    /// Returns an error with the output of helm if it fails.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("helm", "--kube-context");
        command.args(args);
        Ok(process::run_ok(command, &[], LONGEST)?.text())
    }

    /// Calls `look` twice a second until it returns a value. Errors of `look` count as no value.
    ///
    /// # Errors
    /// Returns an error with `what` if there is no value after `seconds`.
    pub fn wait<T>(&self, seconds: u64, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let last = Instant::now() >= end;
            let said = match look() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => String::new(),
                Err(error) => format!(" ({error})"),
            };
            if last {
                return Err(Error::new(format!("waited {seconds} s in vain for {what}{said}")));
            }
            thread::sleep(Duration::from_millis(400));
        }
    }

    /// Lists the objects of a namespace for a person to read, without the content of Secrets.
    pub fn dump(&self, namespace: &str) -> String {
        let mut text = String::new();
        let mut show = |args: &[&str]| {
            let said = self
                .kubectl(&[args, &["--namespace", namespace]].concat())
                .unwrap_or_else(|error| error.to_string());
            // Lines are shortened, because a line of JSON can fill a screen.
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            let said: Vec<String> = last.iter().map(|line| line.chars().take(400).collect()).collect();
            let said = said.join("\n");
            if !said.is_empty() {
                text.push_str(&format!("--- kubectl {} -n {namespace}\n{said}\n", args.join(" ")));
            }
        };
        show(&[
            "get",
            "pods,jobs,deployments,secrets,leases,uploadgrants,downloadgrants",
            "--output",
            "wide",
        ]);
        show(&[
            "get",
            "uploadgrants,downloadgrants",
            "--output",
            "jsonpath={range .items[*]}{.metadata.name} {.status}{\"\\n\"}{end}",
        ]);
        show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let pods = self.field(&["pods", "--namespace", namespace], ".items[*].metadata.name");
        for pod in pods.unwrap_or_default().split_whitespace() {
            show(&["logs", pod, "--all-containers", "--tail=12", "--prefix"]);
        }
        text
    }
}
