//! The cluster that the suite runs against: a node of its own, or one that was named.

use std::{
    env,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use valet_harness::{Context, Error, Node, Result, Scratch, Tools, node, process};

/// Longer than any command of the suite is told to wait.
const LONGEST: Duration = Duration::from_secs(240);

/// A cluster, by kubectl and helm, never by a current context.
pub struct Cluster {
    // Dropped first: it holds what the kubeconfig leads to.
    node: Option<Node>,
    tools: Tools,
    kubeconfig: PathBuf,
    context: String,
    way_in: String,
    scratch: Scratch,
}

impl Cluster {
    /// A node of one's own, in the world that this program is in.
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

    /// The cluster behind a context of the person at the keyboard.
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

    /// The node of one's own, if it is one.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// A folder for the suite's files. Kept when a story fails.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What to type in another terminal to ask this cluster something.
    pub fn how_to_ask(&self) -> String {
        format!(
            "{}{} --kubeconfig {} --context {}",
            self.way_in,
            self.tools.program("kubectl").display(),
            self.kubeconfig.display(),
            self.context
        )
    }

    /// kubectl, to be completed and run by the caller.
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
            // Elsewhere the kubeconfig may name programs that log in, which need a home.
            command.env("HOME", self.scratch.path());
        }
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.scratch.join("helm"));
        }
        command
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_in("", args)
    }

    /// As [`Cluster::kubectl`], with something on standard input.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl_in(&self, stdin: &str, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        Ok(process::run_ok(command, stdin.as_bytes(), LONGEST)?.text())
    }

    /// What kubectl says when it is expected to fail.
    ///
    /// # Errors
    /// If it does not fail.
    pub fn kubectl_refused(&self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(args);
        let output = process::run(command, &[], LONGEST)?;
        if output.status.success() {
            return Err(Error::new(format!("kubectl {} was not refused", args.join(" "))));
        }
        Ok(output.stderr)
    }

    /// As [`Cluster::kubectl`] with `--output json`, parsed.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).context(format_args!("kubectl {} did not print JSON", args.join(" ")))
    }

    /// One field of one object by JSONPath; empty if it is not set.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn field(&self, args: &[&str], path: &str) -> Result<String> {
        self.kubectl(&[&["get"], args, &["--output", &format!("jsonpath={{{path}}}")]].concat())
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn exists(&self, args: &[&str]) -> Result<bool> {
        let name = self.kubectl(&[&["get"], args, &["--ignore-not-found", "--output", "name"]].concat())?;
        Ok(!name.trim().is_empty())
    }

    /// `kubectl apply` of some objects.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl_in(&list.to_string(), &["apply", "--filename", "-"])
            .map(|_| ())
    }

    /// Runs helm and returns what it prints.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("helm", "--kube-context");
        command.args(args);
        Ok(process::run_ok(command, &[], LONGEST)?.text())
    }

    /// Looks twice a second until `look` has something to show. Errors on the way count as nothing to show.
    ///
    /// # Errors
    /// When `seconds` are over, naming `what` was waited for.
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

    /// What is in a namespace, for a person to read. Never what is in Secrets.
    pub fn dump(&self, namespace: &str) -> String {
        let mut text = String::new();
        let mut show = |args: &[&str]| {
            let said = self
                .kubectl(&[args, &["--namespace", namespace]].concat())
                .unwrap_or_else(|error| error.to_string());
            // A line of JSON can fill a screen.
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
