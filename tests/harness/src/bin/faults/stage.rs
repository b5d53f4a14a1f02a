//! The servers, the operators and the grants of the tenants.

use std::path::PathBuf;

use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, Result, Scene};

/// The namespace of the tenants. The bucket and the store have the same name.
pub const NAMESPACE: &str = "faults";
/// A Secret that Valet must not change.
pub const PRECIOUS: &str = "precious";
/// Lifetime in seconds of a credential that expires during the run.
const SHORT: u64 = 20;
/// Lifetime in seconds of a credential that does not expire during the run.
const LONG: u64 = 7000;

/// The servers and operators of the fault tests.
pub struct Stage {
    // The fields are dropped in this order: clients before servers.
    /// The operators that currently run.
    pub operators: Vec<Operator>,
    /// The log files of operators that have ended.
    pub logs: Vec<PathBuf>,
    /// The servers.
    pub scene: Scene,
}

/// The grants of one round. Each grant Secret has the name of its grant.
pub struct Asked {
    /// Upload grants, which are used as soon as their credentials are issued.
    pub uploads: Vec<String>,
    /// Download grants that stay live.
    pub live: Vec<String>,
    /// Download grants that expire.
    pub short: Vec<String>,
}

impl Asked {
    /// The kubectl names of all grants.
    pub fn grants(&self) -> Vec<String> {
        let of = |kind: &'static str, names: &[String]| {
            names.iter().map(move |n| format!("{kind}/{n}")).collect::<Vec<_>>()
        };
        [of("ug", &self.uploads), of("dg", &self.live), of("dg", &self.short)].concat()
    }
}

impl Stage {
    /// Starts the servers and the operators.
    pub fn set() -> Result<Self> {
        let scene = Scene::set(NAMESPACE, json!({"operations": ["Upload", "Download"]}))?;
        scene.plane.apply_all(&[json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": PRECIOUS, "namespace": NAMESPACE},
            "stringData": {"password": "tell-nobody"},
        })])?;
        let mut stage = Self {
            operators: Vec::new(),
            logs: Vec::new(),
            scene,
        };
        stage.complete()?;
        Ok(stage)
    }

    /// Starts operators until two are running.
    pub fn complete(&mut self) -> Result<()> {
        while self.operators.len() < 2 {
            // A short resync interval, because a resync finds changes that a watch missed. The default is ten
            // minutes.
            let options = OperatorOptions {
                namespace: Some(NAMESPACE.into()),
                args: vec!["--resync-seconds=10".into()],
                ..OperatorOptions::default()
            };
            let operator = self.scene.operator(&options)?;
            self.logs.push(operator.log());
            self.operators.push(operator);
        }
        Ok(())
    }

    /// Creates the six grants of a round at once.
    pub fn ask(&self, round: &str) -> Result<Asked> {
        let names = |what: &str, n: usize| (0..n).map(|n| format!("{round}-{what}-{n}")).collect::<Vec<_>>();
        let asked = Asked {
            uploads: names("up", 3),
            live: names("live", 2),
            short: names("short", 1),
        };
        let grants: Vec<_> = [
            ("UploadGrant", &asked.uploads, LONG),
            ("DownloadGrant", &asked.live, LONG),
            ("DownloadGrant", &asked.short, SHORT),
        ]
        .into_iter()
        .flat_map(|(kind, names, seconds)| names.iter().map(move |name| self.scene.grant(kind, name, seconds)))
        .collect();
        self.scene.plane.apply_all(&grants)?;
        Ok(asked)
    }

    /// Runs kubectl in the namespace of the tenants.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.scene.plane.kubectl(&[args, &["--namespace", NAMESPACE]].concat())
    }

    /// Lists all objects of a kind in the namespace of the tenants.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list = self
            .scene
            .plane
            .kubectl_json(&["get", kind, "--namespace", NAMESPACE])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
