//! A Kubernetes node with real pods for tests: containerd, kubelet, kube-proxy and kube-scheduler next to a
//! [`ControlPlane`], in separate namespaces (see [`apart`]).
//!
//! These features work as in any cluster: Deployments, Jobs, Secrets in volumes, Service addresses, service account
//! tokens, Pod Security, probes, `kubectl logs`, `exec` and `drain`. There is no cluster DNS, and images come only
//! from archives ([`Node::start`]). NetworkPolicies are accepted, but have no effect.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Context, ControlPlane, ControlPlaneOptions, Error, Process, Result, Scratch, Tools, control_plane::NodeAddress,
    process,
};

pub mod apart;
mod config;

pub use apart::{Apart, Place};

/// The node's name.
pub const NAME: &str = "valet-node";

/// The address of the node, and the gateway of the pods. Pods can reach servers that listen on this address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const BRIDGE: &str = "valet0";
const SUBNET: &str = "10.244.0.0/24";

/// Much longer than a start takes, even on a busy machine.
const START: Duration = Duration::from_secs(90);
/// Much longer than the import of an image takes. An image of 100 MB takes a second.
const IMPORT: Duration = Duration::from_secs(120);

/// An image in an archive that `hack/images.sh` built.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name with the tag.
    pub name: String,
    /// The path of the archive.
    pub archive: PathBuf,
    /// The digest of the image in a registry, for example `sha256:...`.
    pub digest: String,
}

impl Image {
    /// Reads the name and the digest that `hack/images.sh` wrote for the image `short` in `folder`.
    ///
    /// # Errors
    /// Returns an error if the image does not exist.
    pub fn read(folder: &Path, short: &str) -> Result<Self> {
        let file = |end: &str| folder.join(format!("{short}.{end}"));
        let text = |end: &str| {
            fs::read_to_string(file(end))
                .map(|text| text.trim().to_owned())
                .context(format_args!(
                    "cannot read {}; hack/images.sh makes it",
                    file(end).display()
                ))
        };
        Ok(Self {
            name: text("name")?,
            archive: file("tar"),
            digest: text("digest")?,
        })
    }
}

/// A control plane with one node. When the value is dropped, its programs stop. The containers stop when the
/// namespaces end.
pub struct Node {
    // The fields are dropped in this order.
    _proxy: Process,
    _kubelet: Process,
    _scheduler: Process,
    _containerd: Process,
    plane: ControlPlane,
    logs: Scratch,
    socket: PathBuf,
    started_in: Duration,
}

impl Node {
    /// Starts a node and waits until it is ready (about 10 s). Pods can use only the images in `images`. The first
    /// image must be the pause image.
    ///
    /// # Errors
    /// Returns an error with the last log lines if a program exits or is not ready in time.
    pub fn start(tools: &Tools, apart: &Apart, images: &[Image]) -> Result<Self> {
        let began = Instant::now();
        let logs = Scratch::new("node-logs")?;
        make_bridge()?;
        // containerd imports the images while the control plane starts.
        let (containerd, plane) = thread::scope(|scope| {
            let containerd = scope.spawn(|| start_containerd(apart, &logs, images));
            let options = ControlPlaneOptions {
                node: Some(NodeAddress {
                    name: NAME.into(),
                    address: ADDRESS,
                }),
                ..ControlPlaneOptions::default()
            };
            let plane = ControlPlane::start_with(tools, options);
            let containerd = containerd
                .join()
                .map_err(|_| Error::new("containerd's thread panicked"));
            (containerd.and_then(|inner| inner), plane)
        });
        let (containerd, plane) = (containerd?, plane?);
        let file = |name: &str| plane.scratch().join(name).display().to_string();

        let mut command = tools.command("kube-scheduler");
        command
            .arg(format!("--kubeconfig={}", file("scheduler.kubeconfig")))
            .args(["--leader-elect=false", "--secure-port=0"]);
        let scheduler = Process::start("kube-scheduler", command, logs.join("kube-scheduler.log"))?;

        let settings = config::kubelet(apart.folder(), apart.group(), plane.ca_file());
        let settings = logs.write("kubelet.json", settings.to_string())?;
        let root = apart.folder().join("kubelet");
        let mut command = tools.command("kubelet");
        command
            .arg(format!("--config={}", settings.display()))
            .arg(format!("--kubeconfig={}", file("kubelet.kubeconfig")))
            .arg(format!("--root-dir={}", root.display()))
            .arg(format!("--cert-dir={}", root.join("pki").display()))
            .args([format!("--node-ip={ADDRESS}"), format!("--hostname-override={NAME}")]);
        let kubelet = Process::start("kubelet", command, logs.join("kubelet.log"))?;

        let mut command = tools.command("kube-proxy");
        command
            .arg(format!("--kubeconfig={}", file("proxy.kubeconfig")))
            .args([
                format!("--hostname-override={NAME}"),
                format!("--cluster-cidr={SUBNET}"),
            ])
            .arg("--proxy-mode=iptables")
            // These settings apply to the whole machine, so kube-proxy cannot set them in a network namespace.
            .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"])
            .arg("--conntrack-tcp-timeout-close-wait=0");
        let proxy = Process::start("kube-proxy", command, logs.join("kube-proxy.log"))?;

        kubelet.wait_until(START, "the node was ready", || {
            plane
                .get(&format!("/api/v1/nodes/{NAME}"))
                .ok()
                .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
                .is_some_and(|node| is_ready(&node))
        })?;
        Ok(Self {
            _proxy: proxy,
            _kubelet: kubelet,
            _scheduler: scheduler,
            _containerd: containerd,
            plane,
            logs,
            socket: socket(apart),
            started_in: began.elapsed(),
        })
    }

    /// Imports another image, which pods can use afterwards. An image that already exists takes a second.
    ///
    /// # Errors
    /// Returns an error if the archive does not exist, or if there is not enough disk space.
    pub fn import(&self, image: &Image) -> Result<()> {
        import(&self.socket, image)
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Keeps the logs after the end of the run.
    pub fn keep(&self) {
        self.plane.scratch().keep();
        self.logs.keep();
    }

    /// The duration of the start.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }
}

/// Whether the node is ready and has no not-ready taint.
fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let ready = |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "True";
    conditions.is_some_and(|all| all.iter().any(ready)) && node["spec"]["taints"].is_null()
}

/// Creates the bridge between the node and the pods. Packets from pods are forwarded. The packet filter also sees
/// packets between pods, which Service addresses need.
fn make_bridge() -> Result<()> {
    for line in [
        format!("ip link add {BRIDGE} type bridge"),
        format!("ip addr add {ADDRESS}/24 dev {BRIDGE}"),
        format!("ip link set {BRIDGE} up"),
    ] {
        apart::run(&line.split(' ').collect::<Vec<_>>())?;
    }
    for (setting, value) in [
        (format!("net/ipv4/conf/{BRIDGE}/forwarding"), "1"),
        ("net/bridge/bridge-nf-call-iptables".to_owned(), "1"),
    ] {
        let path = Path::new("/proc/sys").join(setting);
        fs::write(&path, value).context(format_args!(
            "cannot write {} (is the kernel module br_netfilter there?)",
            path.display()
        ))?;
    }
    Ok(())
}

fn start_containerd(apart: &Apart, logs: &Scratch, images: &[Image]) -> Result<Process> {
    let folder = apart.folder();
    let pause = images.first().context("a node needs the pause image")?;
    let settings = logs.write("containerd.toml", config::containerd(folder, &pause.name))?;
    fs::create_dir_all(folder.join("cni")).context("cannot make a folder for the network's settings")?;
    fs::write(
        folder.join("cni/10-valet.conflist"),
        config::network(folder).to_string(),
    )
    .context("cannot write the network's settings")?;
    let mut command = process::clean(Command::new("containerd"));
    command.arg("--config").arg(settings);
    let containerd = Process::start("containerd", command, logs.join("containerd.log"))?;
    let socket = socket(apart);
    containerd.wait_until(START, "it answered", || {
        socket.exists() && ctr(&socket, &["version"]).is_ok()
    })?;
    for image in images {
        import(&socket, image)?;
    }
    Ok(containerd)
}

/// The socket of containerd.
fn socket(apart: &Apart) -> PathBuf {
    apart.folder().join("containerd.sock")
}

fn ctr(socket: &Path, args: &[&str]) -> Result<()> {
    let mut command = process::clean(Command::new("ctr"));
    command
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io"])
        .args(args);
    process::run_ok(command, &[], IMPORT).map(|_| ())
}

fn import(socket: &Path, image: &Image) -> Result<()> {
    ctr(socket, &["images", "import", &image.archive.display().to_string()])
        .context(format_args!("cannot import {}", image.name))
}
