//! Privileged pods, one on each node, that can kill and freeze processes and read kernel information about them. This
//! works on every cluster that allows such pods.

use serde_json::json;
use valet_harness::{Context, Result};

use crate::cluster::Cluster;

/// The namespace of these pods. It is the only namespace of the tests without the restricted Pod Security level.
const NAMESPACE: &str = "valet-e2e-privileged";

/// A pod on whose processes a test acts.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod's name.
    pub name: String,
    uid: String,
    node: String,
}

/// The privileged pods on all nodes.
pub struct PrivilegedPods;

impl PrivilegedPods {
    /// Creates the pods and waits for them.
    pub fn install(cluster: &Cluster, image: &str) -> Result<Self> {
        cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
                    "valetkey.dev/e2e": "suite", "pod-security.kubernetes.io/enforce": "privileged",
                }},
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "privileged", "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": {"app": "privileged"}},
                    "template": {
                        "metadata": {"labels": {"app": "privileged"}},
                        "spec": {
                            "hostPID": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                            "dnsPolicy": "Default",
                            "tolerations": [{"operator": "Exists"}],
                            "containers": [{
                                "name": "privileged", "image": image, "imagePullPolicy": "IfNotPresent",
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
            "daemonset/privileged",
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

    /// Runs a shell command for each process `program` in the pods. `$p` is the process ID.
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
            // The name of the control group contains the UID of the pod. Some cgroup drivers spell it with
            // underscores.
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

    /// Sends a signal to the operator processes in these pods. Returns the number of processes.
    pub fn signal(&self, cluster: &Cluster, pods: &[Target], signal: &str) -> Result<usize> {
        let said = self.each(cluster, pods, "valet", &format!("kill -{signal} $p && echo hit"))?;
        Ok(said.matches("hit").count())
    }
}
