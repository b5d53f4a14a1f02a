//! The settings of containerd, the network plugins and the kubelet.

use std::path::Path;

use serde_json::{Value, json};

use super::{ADDRESS, BRIDGE, SUBNET};

/// containerd's settings: everything in `folder`.
pub(super) fn containerd(folder: &Path, pause: &str) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # In a container one may not ask the kernel to spare one's own processes more than oneself.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{folder}/cni"
"#
    )
}

/// Where Debian has the network plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The pods' network: a bridge that is there already, and addresses from its subnet. The bridge is also the way out.
pub(super) fn network(folder: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "valet",
        "plugins": [{
            "type": "bridge", "bridge": BRIDGE,
            // A pod may reach itself by its Service.
            "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": SUBNET, "rangeStart": "10.244.0.10", "gateway": ADDRESS.to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

/// The kubelet's settings.
pub(super) fn kubelet(folder: &Path, group: &str, client_ca: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", folder.display()),
        "cgroupDriver": "cgroupfs", "cgroupRoot": group,
        // Machines with control groups of version 1 are still many.
        "failCgroupV1": false,
        "enforceNodeAllocatable": [], "failSwapOn": false,
        "address": ADDRESS.to_string(), "port": 10250, "healthzPort": 0,
        // There is no DNS: no pod inherits the machine's.
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "Webhook"},
        // The machine's disk is none of the tests' business until it is as good as full.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": folder.join("pod-logs"),
        "volumePluginDir": folder.join("volume-plugins"),
        // The default of 5 a second makes thirty pods slow.
        "kubeAPIQPS": 100, "kubeAPIBurst": 200, "registryPullQPS": 0, "eventRecordQPS": 0,
        "serializeImagePulls": false,
    })
}
