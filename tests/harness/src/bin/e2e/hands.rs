//! Hands on the nodes: a privileged pod on each, to kill and freeze processes, and to see what the kernel says of them.
//! The same way works on every cluster that lets its owner run such a pod.

use serde_json::json;
use valet_harness::{Context, Result};

use crate::cluster::Cluster;

/// The namespace of the pods, the only one in the suite that is not restricted.
const NAMESPACE: &str = "valet-e2e-hands";

/// A pod that a story does something to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod's name.
    pub name: String,
    uid: String,
    node: String,
}

/// See the module.
pub struct Hands;

impl Hands {
    /// Makes the pods and waits for them.
    pub fn install(cluster: &Cluster, image: &str) -> Result<Self> {
        cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
                    "valetkey.dev/e2e": "suite", "pod-security.kubernetes.io/enforce": "privileged",
                }},
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "hands", "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": {"app": "hands"}},
                    "template": {
                        "metadata": {"labels": {"app": "hands"}},
                        "spec": {
                            "hostPID": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                            "dnsPolicy": "Default",
                            "tolerations": [{"operator": "Exists"}],
                            "containers": [{
                                "name": "hands", "image": image, "imagePullPolicy": "IfNotPresent",
                                "command": ["sleep", "100000"],
                                "securityContext": {"privileged": true, "runAsUser": 0},
                            }],
                        },
                    },
                },
            }),
        ])?;
        cluster.kubectl(&[
            "rollout",
            "status",
            "daemonset/hands",
            "--namespace",
            NAMESPACE,
            "--timeout=60s",
        ])?;
        Ok(Self)
    }

    /// Finds a pod by name.
    pub fn target(&self, cluster: &Cluster, namespace: &str, name: &str) -> Result<Target> {
        let pod = cluster.json(&["get", "pod", name, "--namespace", namespace])?;
        let text = |pointer: &str| pod.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
        Ok(Target {
            name: name.to_owned(),
            uid: text("/metadata/uid").context("a pod without a UID")?,
            node: text("/spec/nodeName").context(format_args!("pod {name} is on no node yet"))?,
        })
    }

    /// Runs a line of shell for each process called `program` in the pods, whose number is `$p`.
    pub fn each(&self, cluster: &Cluster, pods: &[Target], program: &str, line: &str) -> Result<String> {
        let mut said = String::new();
        let mut nodes: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            let hand = cluster.field(
                &[
                    "pods",
                    "--namespace",
                    NAMESPACE,
                    "--field-selector",
                    &format!("spec.nodeName={node}"),
                ],
                ".items[0].metadata.name",
            )?;
            // A control group's name has the pod's UID, with one of two drivers in another spelling.
            let here = pods.iter().filter(|pod| pod.node == node);
            let uids: Vec<String> = here
                .map(|pod| format!("{}|{}", pod.uid, pod.uid.replace('-', "_")))
                .collect();
            let script = format!(
                "for d in /proc/[0-9]*; do p=${{d#/proc/}}; if [ \"$(cat $d/comm 2>/dev/null)\" = {program} ] && \
                 grep -qE '{}' $d/cgroup 2>/dev/null; then {line}; fi; done",
                uids.join("|")
            );
            said += &cluster.kubectl(&["exec", hand.trim(), "--namespace", NAMESPACE, "--", "sh", "-c", &script])?;
        }
        Ok(said)
    }

    /// Sends a signal to the operator in these pods, and says how many processes got it.
    pub fn signal(&self, cluster: &Cluster, pods: &[Target], signal: &str) -> Result<usize> {
        let said = self.each(cluster, pods, "valet", &format!("kill -{signal} $p && echo hit"))?;
        Ok(said.matches("hit").count())
    }
}
