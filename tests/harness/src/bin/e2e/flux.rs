//! Runs Flux's controllers with their own manifests, as `flux install` creates them. Cluster DNS and the notification
//! controller are missing.

use std::{env, fs, path::PathBuf};

use serde_json::{Value, json};
use valet_harness::{Context, Error, Result, net};

use crate::{
    cluster::Cluster,
    play::{Play, check},
    suite::{LABEL, Suite},
};

/// The namespace of Flux and of its objects.
pub const NAMESPACE: &str = "flux-system";
const CONTROLLERS: [&str; 3] = ["source-controller", "kustomize-controller", "helm-controller"];

/// An installation of Flux.
pub struct Flux<'a> {
    cluster: &'a Cluster,
    /// The image of Flux's controllers, which also contains git.
    pub image: String,
    folder: PathBuf,
}

/// The Ready condition of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason of the condition.
    pub reason: String,
    /// The message of the condition.
    pub message: String,
}

impl<'a> Flux<'a> {
    /// Installs Flux or restores its installation, and waits until it is ready.
    pub fn install(play: &'a Play<'a>) -> Result<Self> {
        let (suite, cluster) = (play.suite, &play.suite.cluster);
        check(
            cluster.node().is_some(),
            "Flux is installed on a node of the suite's own; leave E2E_CONTEXT out",
        )?;
        let folder = env::var_os("VALET_FLUX").context("VALET_FLUX does not say where hack/flux.sh put Flux")?;
        let flux = Self {
            cluster,
            image: suite.flux_image()?,
            folder: folder.into(),
        };
        let account = |name: &&str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}});
        cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {LABEL: "suite"}},
        })])?;
        cluster.apply(&CONTROLLERS.iter().map(account).collect::<Vec<_>>())?;
        let manifests = |what: &str| flux.folder.join("manifests").join(what).display().to_string();
        // These manifests are too large for the annotation of a client-side apply.
        cluster.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            &manifests("crds"),
        ])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
        cluster.kubectl(&["apply", "--filename", &manifests("rbac")])?;
        let service = manifests("manager/source-controller-service.yaml");
        cluster.kubectl(&["apply", "--namespace", NAMESPACE, "--filename", &service])?;
        let address = ["service", "source-controller", "--namespace", NAMESPACE];
        let address = cluster.field(&address, ".spec.clusterIP")?;
        for name in CONTROLLERS {
            flux.deploy(name, address.trim())?;
        }
        for name in CONTROLLERS {
            let deployment = format!("deployment/{name}");
            cluster.kubectl(&[
                "rollout",
                "status",
                &deployment,
                "--namespace",
                NAMESPACE,
                "--timeout=90s",
            ])?;
        }
        Ok(flux)
    }

    fn deploy(&self, name: &str, artifacts: &str) -> Result<()> {
        let file = self.folder.join(format!("manifests/manager/{name}-deployment.yaml"));
        let text = fs::read_to_string(&file).context(format_args!("cannot read {}", file.display()))?;
        let mut deployment = from_yaml(self.cluster, &text)?.remove(0);
        deployment["metadata"]["namespace"] = json!(NAMESPACE);
        let spec = &mut deployment["spec"]["template"]["spec"];
        spec["serviceAccountName"] = json!(name);
        spec["dnsPolicy"] = json!("Default");
        let container = &mut spec["containers"][0];
        container["image"] = json!(self.image);
        container["command"] = json!([name]);
        let args = container["args"].as_array().context("a controller without arguments")?;
        let args: Vec<Value> = args
            .iter()
            .map(|arg| match arg.as_str() {
                Some(arg) if arg.starts_with("--storage-adv-addr=") => {
                    json!(format!("--storage-adv-addr={artifacts}"))
                }
                _ => arg.clone(),
            })
            .collect();
        container["args"] = json!(args);
        self.cluster.apply(&[deployment])
    }

    /// The versions of Flux, for the report.
    pub fn versions(&self) -> String {
        let text = fs::read_to_string(self.folder.join("versions")).unwrap_or_default();
        let names = text.lines().map(|line| line.trim_start_matches("github.com/fluxcd/"));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Returns the Ready condition of a Flux object.
    pub fn ready(&self, what: &str) -> Result<Ready> {
        let object = self.cluster.json(&["get", what, "--namespace", NAMESPACE])?;
        let conditions = object["status"]["conditions"].as_array();
        let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
        let ready = ready.context(format_args!("{what} has no condition Ready"))?;
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        Ok(Ready {
            status: text("status"),
            reason: text("reason"),
            message: text("message"),
        })
    }

    /// Waits until a Flux object is Ready.
    pub fn wait_ready(&self, what: &str, seconds: u64) -> Result<Ready> {
        self.cluster.wait(seconds, &format!("{what} to be Ready"), || {
            let object = self.cluster.json(&["get", what, "--namespace", NAMESPACE])?;
            let ready = self.ready(what)?;
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if ready.status == "True" && seen {
                return Ok(Some(ready));
            }
            Err(Error::new(format!("{ready:?}")))
        })
    }

    /// Requests a reconcile of a Flux object, as `flux reconcile` does, and returns its Ready condition afterwards.
    /// Waits at most two minutes, which is the longest timeout of these objects.
    pub fn reconcile(&self, what: &str) -> Result<Ready> {
        let token = net::random_hex(4)?;
        let annotation = format!("reconcile.fluxcd.io/requestedAt={token}");
        self.cluster
            .kubectl(&["annotate", "--overwrite", what, "--namespace", NAMESPACE, &annotation])?;
        self.cluster.wait(140, &format!("{what} to have looked again"), || {
            let handled = self
                .cluster
                .field(&[what, "--namespace", NAMESPACE], ".status.lastHandledReconcileAt")?;
            let ready = self.ready(what)?;
            Ok((handled.trim() == token && ready.status != "Unknown").then_some(ready))
        })
    }

    /// The reasons of all events about an object since Flux was installed.
    pub fn events(&self, name: &str) -> Result<Vec<String>> {
        let field = format!("involvedObject.name={name}");
        let reasons = self.cluster.kubectl(&[
            "get",
            "events",
            "--namespace",
            NAMESPACE,
            "--field-selector",
            &field,
            "--output",
            "jsonpath={.items[*].reason}",
        ])?;
        Ok(reasons.split_whitespace().map(str::to_owned).collect())
    }
}

/// Parses YAML with kubectl into single objects. The CRDs of the objects must exist.
pub fn from_yaml(cluster: &Cluster, text: &str) -> Result<Vec<Value>> {
    let args = [
        "create",
        "--dry-run=client",
        "--validate=false",
        "--output=json",
        "--filename=-",
    ];
    let said = cluster.kubectl_in(text, &args)?;
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(&said).into_iter::<Value>() {
        let object = object.context("kubectl did not print JSON")?;
        match object["items"].as_array() {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(object),
        }
    }
    Ok(objects)
}

/// The objects in the first YAML block below a heading of a document.
pub fn documented(suite: &Suite, document: &str, heading: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(suite.root.join(document)).context(format_args!("cannot read {document}"))?;
    let below = text.split_once(&format!("\n## {heading}\n"));
    let block = below
        .and_then(|(_, below)| below.split_once("```yaml\n"))
        .and_then(|(_, block)| block.split_once("```"))
        .context(format_args!("{document} has no YAML below '{heading}'"))?;
    from_yaml(&suite.cluster, block.0)
}
