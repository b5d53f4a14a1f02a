//! Configuration of containerd, the network plugins and the kubelet.

use std::path::Path;

use serde_json::{Value, json};

use super::{ADDRESS, BRIDGE, SUBNET};

/// The configuration of containerd. All files are in `folder`.
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

/// The folder of the network plugins on Debian.
const PLUGINS: &str = "/usr/lib/cni";

/// The network of the pods: an existing bridge with addresses of its subnet. The bridge is also the default gateway.
pub(super) fn network(folder: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "valet",
        "plugins": [{
            "type": "bridge", "bridge": BRIDGE,
            // A pod can reach itself through its Service.
            "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": SUBNET, "rangeStart": "10.244.0.10", "gateway": ADDRESS.to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

/// The configuration of the kubelet.
pub(super) fn kubelet(folder: &Path, group: &str, client_ca: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", folder.display()),
        "cgroupDriver": "cgroupfs", "cgroupRoot": group,
        // Many machines still use control groups of version 1.
        "failCgroupV1": false,
        "enforceNodeAllocatable": [], "failSwapOn": false,
        "address": ADDRESS.to_string(), "port": 10250, "healthzPort": 0,
        // There is no cluster DNS, and pods do not inherit the DNS settings of the machine.
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "Webhook"},
        // The kubelet must not evict pods because of a full disk of the machine, unless the disk is almost completely
        // full.
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "100Mi", "imagefs.available": "100Mi", "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": folder.join("pod-logs"),
        "volumePluginDir": folder.join("volume-plugins"),
        // The default of 5 requests per second makes the start of thirty pods slow.
        "kubeAPIQPS": 100, "kubeAPIBurst": 200, "registryPullQPS": 0, "eventRecordQPS": 0,
        "serializeImagePulls": false,
    })
}
