//! A git server in a pod in the namespace of a test: git's HTTP backend behind busybox httpd.

use std::{path::Path, process::Command, time::Duration};

use serde_json::json;
use valet_harness::{Context, Result, process};

use crate::{play::Play, pods};

/// The name of the pod and of its Service.
const NAME: &str = "git";
/// Every repository is a folder in `/work/git`. Commits are made directly in this folder.
const SCRIPT: &str = r#"
mkdir -p /work/www/cgi-bin /work/git
printf '#!/bin/sh\nexec git-http-backend\n' > /work/www/cgi-bin/git
chmod +x /work/www/cgi-bin/git
export GIT_PROJECT_ROOT=/work/git GIT_HTTP_EXPORT_ALL=1 HOME=/work
exec httpd -f -p 8000 -h /work/www
"#;
/// A git command with an author.
const COMMIT: &str = "git -c user.name=team -c user.email=team@example.com commit --quiet --message change";

/// A git server in a pod.
pub struct Git<'a> {
    play: &'a Play<'a>,
    address: String,
}

impl<'a> Git<'a> {
    /// Starts the server and waits until it is ready.
    pub fn start(play: &'a Play<'a>, image: &str) -> Result<Self> {
        let mut spec = pods::spec(image, SCRIPT, &[]);
        spec["containers"][0]["env"] = json!([{"name": "HOME", "value": "/work"}]);
        spec["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 8000}, "periodSeconds": 1});
        let (metadata, labels) = (json!({"name": NAME, "namespace": play.namespace}), json!({"app": NAME}));
        play.suite.cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": NAME, "namespace": play.namespace, "labels": labels}, "spec": spec,
            }),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"selector": labels, "ports": [{"port": 8000}]},
            }),
        ])?;
        play.wait_for("condition=Ready", "pod/git", 60)?;
        let address = play.field("service/git", ".spec.clusterIP")?;
        Ok(Self { play, address })
    }

    /// The clone URL of a repository.
    pub fn url(&self, repository: &str) -> String {
        format!("http://{}:8000/cgi-bin/git/{repository}", self.address.trim())
    }

    /// Creates an empty repository with the branch `main`.
    pub fn make(&self, repository: &str) -> Result<()> {
        self.run(
            "",
            &format!("git init --quiet --initial-branch main /work/git/{repository}"),
        )
    }

    /// Commits a file with this text, or its deletion if there is no text.
    pub fn commit(&self, repository: &str, file: &str, text: &str) -> Result<()> {
        let change = if text.is_empty() {
            format!("git rm --quiet {file}")
        } else {
            format!("mkdir -p \"$(dirname {file})\"; cat > {file}; git add {file}")
        };
        self.run(text, &format!("cd /work/git/{repository}; {change}; {COMMIT}"))
    }

    /// Changes the files of a repository with a shell command, commits the change, and tags the commit.
    pub fn release(&self, repository: &str, change: &str, tag: &str) -> Result<()> {
        let line = format!("cd /work/git/{repository}; {change}; git add --all; {COMMIT}; git tag {tag}");
        self.run("", &line)
    }

    /// Copies a folder of this machine into a repository without a commit. All files must be text.
    pub fn copy(&self, repository: &str, root: &Path, folder: &str) -> Result<()> {
        let mut command = process::clean(Command::new("tar"));
        command
            .arg("--directory")
            .arg(root)
            .args(["--create", "--file", "-", folder]);
        let archive = process::run_ok(command, &[], Duration::from_secs(20))?.stdout;
        // kubectl's standard input accepts text only. Headers and padding of the archive are also text.
        let archive = String::from_utf8(archive).context(format_args!("{folder} has files that are no text"))?;
        self.run(&archive, &format!("tar -x -C /work/git/{repository}"))
    }

    fn run(&self, stdin: &str, line: &str) -> Result<()> {
        let exec = ["exec", "--stdin", NAME, "--namespace", &self.play.namespace, "--"];
        let line = format!("set -e; {line}");
        self.play
            .suite
            .cluster
            .kubectl_in(stdin, &[&exec[..], &["sh", "-c", &line]].concat())
            .map(|_| ())
    }
}
