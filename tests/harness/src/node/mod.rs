//! A Kubernetes node of one's own, with real pods: containerd, kubelet, kube-proxy and kube-scheduler beside a
//! [`ControlPlane`], in a world [`apart`] from the machine's network and mounts.
//!
//! What works as in any cluster: Deployments, Jobs, Secrets in volumes, Service addresses, service account tokens, Pod
//! Security, probes, `kubectl logs`, `exec` and `drain`. What there is not: cluster DNS, and images from anywhere else
//! than from archives ([`Node::start`]). NetworkPolicies are accepted and do nothing.

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

/// The node's address, and the pods' way out: what listens there, pods reach.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const BRIDGE: &str = "valet0";
const SUBNET: &str = "10.244.0.0/24";

/// Far longer than a start takes, on a busy machine too.
const START: Duration = Duration::from_secs(90);
/// An image of a hundred megabytes takes a second.
const IMPORT: Duration = Duration::from_secs(120);

/// An image in an archive that `hack/images.sh` has made.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name with its tag.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// What the archive's bytes hash to in the registry's sense, as in `sha256:...`.
    pub digest: String,
}

impl Image {
    /// Reads what `hack/images.sh` has left about the image `short` in `folder`.
    ///
    /// # Errors
    /// If it is not there.
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

/// A control plane with one node. Dropping it ends its programs; its containers end with the world that they are in.
pub struct Node {
    // Dropped in this order.
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
    /// Starts it and waits until it is ready (about 10 s). `images` can be used by their names and come from nowhere
    /// else; the first one is the pause image.
    ///
    /// # Errors
    /// If one of its programs ends or is not ready in time, with that program's last words.
    pub fn start(tools: &Tools, apart: &Apart, images: &[Image]) -> Result<Self> {
        let began = Instant::now();
        let logs = Scratch::new("node-logs")?;
        make_bridge()?;
        // The images are unpacked while the control plane starts.
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
            // These are the whole machine's, and not for a network of one's own to set.
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

    /// Unpacks another image, which can be used by its name from then on. One that is there already costs a second.
    ///
    /// # Errors
    /// If the archive is not there, or there is no room for it.
    pub fn import(&self, image: &Image) -> Result<()> {
        import(&self.socket, image)
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// From now on the logs stay, whatever happens.
    pub fn keep(&self) {
        self.plane.scratch().keep();
        self.logs.keep();
    }

    /// How long the start took.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }
}

/// Ready, and no longer tainted as not being so.
fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let ready = |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "True";
    conditions.is_some_and(|all| all.iter().any(ready)) && node["spec"]["taints"].is_null()
}

/// The bridge between node and pods. Packets from pods are passed on, and the packet filter sees those between pods,
/// which makes Service addresses work.
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

/// Where containerd listens.
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
