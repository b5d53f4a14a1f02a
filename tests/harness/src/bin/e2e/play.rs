//! The environment and the result of one test.

use std::{
    cell::RefCell,
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use serde_json::json;
use valet_harness::{Error, Result};

use crate::suite::{LABEL, STORE, Suite};

/// A running test with a separate namespace.
pub struct Play<'a> {
    /// The environment that all tests share.
    pub suite: &'a Suite,
    /// The namespace of the test, with the restricted Pod Security level.
    pub namespace: String,
    notes: RefCell<Vec<String>>,
}

/// Properties of a grant Secret, without the credential itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The Secret's UID.
    pub uid: String,
    /// A hash of the Secret's data.
    data: u64,
}

impl Published {
    /// Whether both Secrets contain the same credential, even if the Secret was created again.
    pub fn same_data(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

impl<'a> Play<'a> {
    /// Creates the namespace of the test.
    pub fn begin(suite: &'a Suite, name: &str) -> Result<Self> {
        let namespace = format!("e2e-{name}-{}", suite.run);
        suite.cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {
                LABEL: "tenant", "pod-security.kubernetes.io/enforce": "restricted",
            }},
        })])?;
        Ok(Self {
            suite,
            namespace,
            notes: RefCell::default(),
        })
    }

    /// Adds a line to the report.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    /// The lines for the report.
    pub fn notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// Runs kubectl in the namespace of the test.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.suite
            .cluster
            .kubectl(&[args, &["--namespace", &self.namespace]].concat())
    }

    /// Reads one field of an object in the namespace of the test, for example `("ug/x", ".status")`.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.suite
            .cluster
            .field(&[object, "--namespace", &self.namespace], path)
    }

    /// Whether an object exists.
    pub fn exists(&self, object: &str) -> Result<bool> {
        self.suite.cluster.exists(&[object, "--namespace", &self.namespace])
    }

    /// Runs `kubectl wait --for=WHAT OBJECT`.
    pub fn wait_for(&self, what: &str, object: &str, seconds: u64) -> Result<()> {
        let (what, timeout) = (format!("--for={what}"), format!("--timeout={seconds}s"));
        self.kubectl(&["wait", &what, object, &timeout]).map(|_| ())
    }

    /// Waits until a grant's condition has a status and a reason.
    pub fn wait_condition(&self, grant: &str, kind: &str, status: &str, reason: &str, seconds: u64) -> Result<()> {
        let path = format!(".status.conditions[?(@.type==\"{kind}\")]");
        self.suite
            .cluster
            .wait(seconds, &format!("{grant}: {kind}={status}, {reason}"), || {
                let text = self.field(grant, &path)?;
                let condition: serde_json::Value = serde_json::from_str(&text)
                    .map_err(|_| Error::new(format!("{grant} has no condition {kind}")))?;
                if condition["status"] == status && condition["reason"] == reason {
                    return Ok(Some(()));
                }
                Err(Error::new(text))
            })
    }

    /// Waits until a grant's Secret is gone.
    pub fn wait_secret_gone(&self, name: &str, seconds: u64) -> Result<()> {
        self.wait_for("delete", &format!("secret/{name}"), seconds)
    }

    /// Waits until the kubelet has reported that the Secret of a pod is missing.
    pub fn wait_for_missing(&self, secret: &str) -> Result<()> {
        let selector = ["--field-selector", "reason=FailedMount"];
        let output = ["--output", "jsonpath={.items[*].message}"];
        self.suite
            .cluster
            .wait(30, &format!("the event that Secret {secret} is missing"), || {
                let events = self.kubectl(&[&["get", "events"], &selector[..], &output[..]].concat())?;
                Ok(events.contains(&format!("secret \"{secret}\" not found")).then_some(()))
            })
    }

    /// Runs a shell command in a pod.
    pub fn exec(&self, pod: &str, line: &str) -> Result<String> {
        self.suite
            .cluster
            .kubectl(&["exec", pod, "--namespace", &self.namespace, "--", "sh", "-c", line])
    }

    /// Checks that a pod is running and has not restarted.
    pub fn runs_on(&self, pod: &str) -> Result<()> {
        let pod = format!("pod/{pod}");
        let restarts = self.field(&pod, ".status.containerStatuses[0].restartCount")?;
        let phase = self.field(&pod, ".status.phase")?;
        check(
            phase == "Running" && restarts == "0",
            format!("{pod} is {phase} after {restarts} restarts"),
        )
    }

    /// The properties of a grant Secret that must not change.
    pub fn published(&self, name: &str) -> Result<Published> {
        let secret = self
            .suite
            .cluster
            .json(&["get", "secret", name, "--namespace", &self.namespace])?;
        let mut hasher = DefaultHasher::new();
        secret["data"].to_string().hash(&mut hasher);
        Ok(Published {
            uid: secret["metadata"]["uid"].as_str().unwrap_or_default().into(),
            data: hasher.finish(),
        })
    }

    /// Creates an upload grant, and returns the time until its credential is issued.
    pub fn time_to_key(&self, name: &str, seconds: u64) -> Result<Duration> {
        let began = Instant::now();
        self.suite
            .cluster
            .apply(&[crate::pods::upload(&self.namespace, name, STORE, crate::pods::LONG)])?;
        self.wait_for("condition=Ready", &format!("ug/{name}"), seconds)?;
        Ok(began.elapsed())
    }
}

/// Returns an error with this message if the condition is false.
pub fn check(holds: bool, promise: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(promise)) }
}
