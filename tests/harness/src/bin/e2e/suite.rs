//! The environment of all tests: the cluster, Valet, the S3 server, and privileged pods on the nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use valet_harness::{Context, Error, Node, Process, Result, net, node};

use crate::{
    cluster::Cluster,
    pods,
    privileged_pods::{PrivilegedPods, Target},
    s3::S3,
};

/// The release's namespace.
pub const SYSTEM: &str = "valet-system";
/// The name of the release and of its objects.
pub const RELEASE: &str = "valet";
/// The label of all objects of the tests and of the tenants' namespaces.
pub const LABEL: &str = "valetkey.dev/e2e";
/// The store that most tests use. Namespaces with [`LABEL`] have full access under a separate prefix.
pub const STORE: &str = "e2e-media";
/// The Secret with the tokens of stores that send notifications.
const TOKENS: &str = "e2e-tokens";
/// The label selector of the operator's pods.
const PODS: &str = "app.kubernetes.io/instance=valet,app.kubernetes.io/name=valet";

/// The environment of all tests.
pub struct Suite {
    pub cluster: Cluster,
    /// The S3 server in the cluster.
    pub s3: S3,
    /// The privileged pods on the nodes.
    pub privileged_pods: PrivilegedPods,
    /// The operator's image.
    pub valet_image: String,
    /// The workloads' image.
    pub image: String,
    /// The root folder of the repository.
    pub root: PathBuf,
    /// A suffix that distinguishes the namespaces of this run from those of other runs.
    pub run: String,
    /// The token that stores send with notifications.
    pub token: String,
}

impl Suite {
    /// Checks that the cluster has no other Valet installation, and creates everything except Valet itself.
    pub fn prepare(cluster: Cluster, valet_image: &str, image: &str) -> Result<Self> {
        refuse_somebody_elses(&cluster)?;
        clean(&cluster)?;
        let privileged_pods = PrivilegedPods::install(&cluster, image)?;
        let s3 = S3::install(&cluster, image)?;
        let token = net::random_hex(16)?;
        let suite = Self {
            cluster,
            s3,
            privileged_pods,
            valet_image: valet_image.into(),
            image: image.into(),
            root: env!("VALET_ROOT").into(),
            run: net::random_hex(2)?,
            token,
        };
        suite.furnish()?;
        Ok(suite)
    }

    /// Creates the namespace of the release with the Secrets of the platform team: the store's credentials and the
    /// tokens of stores.
    pub fn furnish(&self) -> Result<()> {
        self.cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": {
                    LABEL: "suite", "pod-security.kubernetes.io/enforce": "restricted",
                }},
            }),
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": TOKENS, "namespace": SYSTEM},
                "stringData": {"tokens": format!("{} *", self.token)},
            }),
            self.s3.credentials(SYSTEM),
        ])
    }

    /// The path of the chart in this repository.
    pub fn chart(&self) -> String {
        self.root.join("charts/valet").display().to_string()
    }

    /// Runs `helm upgrade --install` and waits. `set` contains values in addition to the image.
    pub fn install(&self, chart: &str, set: &[&str]) -> Result<()> {
        self.install_with(chart, set, &[])
    }

    /// As [`Suite::install`], with additional Helm options.
    pub fn install_with(&self, chart: &str, set: &[&str], options: &[&str]) -> Result<()> {
        let (repository, tag) = self
            .valet_image
            .rsplit_once(':')
            .context(format_args!("the image {} has no tag", self.valet_image))?;
        let image = format!("image.repository={repository},image.tag={tag}");
        let mut args = vec![
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout",
            "120s",
        ];
        // The previous chart does not have these values.
        let notifications = format!("notifications.enabled=true,notifications.existingSecret={TOKENS}");
        let ours = (chart == self.chart()).then_some(notifications.as_str());
        for value in [image.as_str()].iter().chain(&ours).chain(set) {
            args.extend(["--set", value]);
        }
        args.extend(options);
        let result = self.cluster.helm(&args);
        result
            .map(|_| ())
            .map_err(|error| Error::new(format!("{error}\n{}", self.cluster.dump(SYSTEM))))
    }

    /// Creates the shared store. The CRDs must exist.
    pub fn make_store(&self) -> Result<()> {
        self.make_store_at(STORE, "s3", json!([pods::rule_for_all(LABEL)]))
    }

    /// Creates a separate store for a test.
    pub fn make_store_at(&self, name: &str, service: &str, access: Value) -> Result<()> {
        let store = self.s3.store(&self.cluster, name, service, &access)?;
        self.cluster.apply(&[store])?;
        Ok(())
    }

    /// The image with MinIO and an S3 client. A separate node imports it only now, so that it does not slow down
    /// other tests.
    pub fn stores_image(&self) -> Result<String> {
        match self.cluster.node() {
            Some(node) => Self::unpacked(node, "stores"),
            None => {
                env::var("E2E_STORES_IMAGE").context("E2E_STORES_IMAGE does not name the image with MinIO and rclone")
            }
        }
    }

    /// The image with Flux and git, imported in the same way. Only for a separate node.
    pub fn flux_image(&self) -> Result<String> {
        let node = self.cluster.node().context("there is no node of the suite's own")?;
        Self::unpacked(node, "flux")
    }

    fn unpacked(node: &Node, name: &str) -> Result<String> {
        let folder = env::var("E2E_IMAGES").context("E2E_IMAGES does not say where hack/images.sh put the images")?;
        let image = node::Image::read(Path::new(&folder), name)?;
        node.import(&image)?;
        Ok(image.name)
    }

    /// The operator's pods that are not being deleted.
    pub fn operators(&self) -> Result<Vec<Target>> {
        let pods = self
            .cluster
            .json(&["get", "pods", "--namespace", SYSTEM, "--selector", PODS])?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && !pod["spec"]["nodeName"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .map(|name| self.privileged_pods.target(&self.cluster, SYSTEM, name))
            .collect()
    }

    /// The pod that holds the Lease.
    pub fn leader(&self) -> Result<Target> {
        self.cluster.wait(30, "a leader that is there", || {
            let holder = self
                .cluster
                .field(&["lease", "valet", "--namespace", SYSTEM], ".spec.holderIdentity")?;
            let all = self.operators()?;
            Ok(all
                .into_iter()
                .find(|pod| !holder.is_empty() && holder.starts_with(&pod.name)))
        })
    }

    /// Scales the operator and waits for the replicas.
    pub fn scale(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.cluster
            .kubectl(&["scale", "deployment", RELEASE, "--namespace", SYSTEM, &count])?;
        if replicas == 0 {
            self.cluster.kubectl(&[
                "wait",
                "--for=delete",
                "pod",
                "--selector",
                PODS,
                "--namespace",
                SYSTEM,
                "--timeout=60s",
            ])?;
            return Ok(());
        }
        self.ready()
    }

    /// Waits until all of the operator's pods are ready.
    pub fn ready(&self) -> Result<()> {
        let deployment = format!("deployment/{RELEASE}");
        self.cluster.kubectl(&[
            "rollout",
            "status",
            &deployment,
            "--namespace",
            SYSTEM,
            "--timeout=120s",
        ])?;
        Ok(())
    }

    /// Starts to watch the events of the Secrets in a namespace.
    pub fn watch_secrets(&self, namespace: &str) -> Result<SecretWatch> {
        let mut command = self.cluster.kubectl_command();
        command.args([
            "get",
            "secrets",
            "--namespace",
            namespace,
            "--watch",
            "--output-watch-events",
            "--no-headers",
        ]);
        let columns = "custom-columns=TYPE:.type,NAME:.object.metadata.name,UID:.object.metadata.uid,\
                       ISSUED:.object.metadata.annotations.valetkey\\.dev/issued-at";
        command.args(["--output", columns]);
        let log = self.cluster.scratch().join(format!("secrets-{namespace}.log"));
        Ok(SecretWatch(Process::start(
            "kubectl get secrets --watch",
            command,
            log,
        )?))
    }
}

/// The changes of Secrets, from a watch.
pub struct SecretWatch(Process);

impl SecretWatch {
    /// How many credentials each Secret has had since the watch started, by name. A new Secret with the same name is
    /// a new credential, and so is a new time of issue.
    pub fn keys(&self) -> Vec<(String, usize)> {
        let text = self.0.log_text();
        let mut keys: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["ADDED" | "MODIFIED", name, uid, issued] = words[..] {
                keys.entry(name).or_default().insert((uid, issued));
            }
        }
        keys.into_iter()
            .map(|(name, all)| (name.to_owned(), all.len()))
            .collect()
    }
}

/// Refuses a cluster in which another person uses Valet, because the tests install, kill and uninstall Valet.
fn refuse_somebody_elses(cluster: &Cluster) -> Result<()> {
    let ours = cluster
        .kubectl(&["get", "namespace", SYSTEM, "--ignore-not-found", "--show-labels"])?
        .contains(LABEL);
    if !ours && cluster.exists(&["crd", "uploadgrants.valetkey.dev"])? {
        return Err(Error::new(format!(
            "there is a Valet in this cluster already, and none of this suite's ({SYSTEM} has no label {LABEL}); the \
             suite installs, kills and uninstalls it, so name a cluster without one"
        )));
    }
    Ok(())
}

/// Deletes everything that the tests created, including the remains of a killed run.
pub fn clean(cluster: &Cluster) -> Result<()> {
    let marked = cluster.kubectl(&["get", "namespaces", "--selector", LABEL, "--output", "name"])?;
    if marked.contains(&format!("namespace/{SYSTEM}")) {
        // Uninstall the operator first, so that it adds no finalizers while the grants are deleted.
        let _ = cluster.helm(&[
            "uninstall",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--ignore-not-found",
            "--wait",
        ]);
        remove_kinds(cluster)?;
    }
    let names: Vec<&str> = marked.split_whitespace().collect();
    if !names.is_empty() {
        cluster.kubectl(&[&["delete", "--timeout=120s"], &names[..]].concat())?;
    }
    Ok(())
}

/// Deletes Valet's CRDs, and with them all grants and stores.
pub fn remove_kinds(cluster: &Cluster) -> Result<()> {
    let kinds = ["uploadgrants", "downloadgrants", "objectstores", "clusterobjectstores"];
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("crd/{kind}.valetkey.dev")).collect();
    let names: Vec<&str> = kinds.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["delete", "--ignore-not-found", "--timeout=60s"], &names[..]].concat())?;
    Ok(())
}
