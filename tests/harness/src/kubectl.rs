//! Runs kubectl with an explicit context, and creates namespaces for tests.

use std::{path::Path, process::Command, thread, time::Duration};

use serde_json::{Value, json};

use crate::{Context, ControlPlane, Result, control_plane::CONTEXT, process};

/// Longer than any `kubectl wait` in a test.
const LONGEST: Duration = Duration::from_secs(120);

impl ControlPlane {
    /// Runs kubectl as the admin user and returns its output.
    ///
    /// # Errors
    /// Returns an error with the output of kubectl if it fails or does not end within 120 s.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_in("", args)
    }

    /// As [`ControlPlane::kubectl`], with `stdin` on standard input, for example for `apply -f -`.
    ///
    /// # Errors
    /// As [`ControlPlane::kubectl`].
    pub fn kubectl_in(&self, stdin: &str, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command(self.kubeconfig());
        command.args(args);
        Ok(process::run_ok(command, stdin.as_bytes(), LONGEST)?.text())
    }

    /// As [`ControlPlane::kubectl`] with `--output json`, and parses the output.
    ///
    /// # Errors
    /// As [`ControlPlane::kubectl`], and if the output is not JSON.
    pub fn kubectl_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).context(format_args!("kubectl {} did not print JSON", args.join(" ")))
    }

    /// Runs `kubectl apply -f -` with this YAML or JSON.
    ///
    /// # Errors
    /// As [`ControlPlane::kubectl`]. If the apiserver rejects the request, the error contains its message.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl_in(manifest, &["apply", "--filename", "-"])
    }

    /// As [`ControlPlane::apply`], for several objects at once.
    ///
    /// # Errors
    /// As [`ControlPlane::apply`].
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        Ok(())
    }

    /// A kubectl command for the user of the kubeconfig file. The caller adds arguments and runs it. It uses the
    /// context of the harness, and a separate cache and home folder, and no settings of the user at the terminal.
    pub fn kubectl_command(&self, kubeconfig: &Path) -> Command {
        let mut command = self.tools().command("kubectl");
        command
            .env("HOME", self.scratch().join("home"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg(format!("--context={CONTEXT}"))
            .arg(format!(
                "--cache-dir={}",
                self.scratch().join("kubectl-cache").display()
            ));
        command
    }

    /// Prints the content of a namespace for a person: Valet's objects in full, the names of Secrets without their
    /// content, and events.
    pub fn dump(&self, namespace: &str) -> String {
        let mut text = String::new();
        for args in [
            &["get", "valet", "--output", "yaml"][..],
            &["get", "secrets"],
            &["get", "events", "--sort-by=.lastTimestamp"],
        ] {
            let said = self
                .kubectl(&[args, &["--namespace", namespace]].concat())
                .unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("--- kubectl {} -n {namespace}\n{said}\n", args.join(" ")));
        }
        text
    }

    /// Waits until every CRD is established.
    pub(crate) fn wait_for_crds(&self) -> Result<()> {
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        Ok(())
    }

    /// Creates a namespace `PREFIX-N` for one test. The namespace is not deleted after the test, because the control
    /// plane is temporary. If the test fails, the content of the namespace is printed.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be created.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace<'_>> {
        let name = format!("{prefix}-{}", self.next_namespace());
        self.kubectl(&["create", "namespace", &name])?;
        Ok(Namespace { plane: self, name })
    }
}

/// A namespace for one test.
pub struct Namespace<'a> {
    plane: &'a ControlPlane,
    name: String,
}

impl Namespace<'_> {
    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// See [`ControlPlane::dump`].
    pub fn dump(&self) -> String {
        self.plane.dump(&self.name)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.dump());
        }
    }
}
