//! The servers, the operators and what tenants ask for.

use std::path::PathBuf;

use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, Result, Scene};

/// The tenants' namespace, and the bucket and store of that name.
pub const NAMESPACE: &str = "faults";
/// A Secret that is nobody's business here.
pub const PRECIOUS: &str = "precious";
/// Seconds of a key that runs out before the end of the run.
const SHORT: u64 = 20;
/// Seconds of a key that outlives it.
const LONG: u64 = 7000;

/// See the module.
pub struct Stage {
    // Dropped in this order: clients before servers.
    /// Those that work at present.
    pub operators: Vec<Operator>,
    /// Everything that operators which are gone have logged.
    pub logs: Vec<PathBuf>,
    /// The servers.
    pub scene: Scene,
}

/// What was asked for in one round: names of grants, each with a Secret of that name.
pub struct Asked {
    /// Uploads, to be made as soon as their keys are there.
    pub uploads: Vec<String>,
    /// Downloads that are to live on.
    pub live: Vec<String>,
    /// Downloads that run out.
    pub short: Vec<String>,
}

impl Asked {
    /// All of them, as kubectl names grants.
    pub fn grants(&self) -> Vec<String> {
        let of = |kind: &'static str, names: &[String]| {
            names.iter().map(move |n| format!("{kind}/{n}")).collect::<Vec<_>>()
        };
        [of("ug", &self.uploads), of("dg", &self.live), of("dg", &self.short)].concat()
    }
}

impl Stage {
    /// Starts everything.
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

    /// Starts operators until there are two again.
    pub fn complete(&mut self) -> Result<()> {
        while self.operators.len() < 2 {
            // A sweep sees what no watch tells. In production it is ten minutes.
            let options = OperatorOptions {
                namespace: Some(NAMESPACE.into()),
                args: vec!["--sweep-seconds=10".into()],
                ..OperatorOptions::default()
            };
            let operator = self.scene.operator(&options)?;
            self.logs.push(operator.log());
            self.operators.push(operator);
        }
        Ok(())
    }

    /// Tenants apply six grants at once.
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

    /// kubectl in the tenants' namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.scene.plane.kubectl(&[args, &["--namespace", NAMESPACE]].concat())
    }

    /// All objects of a kind in the tenants' namespace.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list = self
            .scene
            .plane
            .kubectl_json(&["get", kind, "--namespace", NAMESPACE])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
