//! Tests of the chart's NetworkPolicy on a network that enforces it with kube-router.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use valet_harness::{Context, Process, Result, process};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{LABEL, RELEASE, STORE, SYSTEM},
};

/// The apiserver has a port that is set in the values. The port of the store is not set at first.
pub fn network_policy(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let node = cluster
        .node()
        .context("the network is that of a node of the suite's own")?;
    let bin =
        env::var_os("VALET_NETWORK").context("VALET_NETWORK does not say where hack/network.sh put kube-router")?;
    let router = PathBuf::from(bin).join("kube-router");
    let apiserver = cluster.field(&["endpoints", "kubernetes"], ".subsets[0].ports[0].port")?;
    let apiserver = format!("networkPolicy.egress.apiServer.ports={{443,{}}}", apiserver.trim());
    let monitoring = format!(
        "networkPolicy.ingress.from[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name={}",
        play.namespace
    );
    let values = ["networkPolicy.enabled=true", &apiserver, &monitoring];
    suite.install(&suite.chart(), &values)?;
    suite.ready()?;
    // Only one of two clients may read the metrics. Without enforcement, both can.
    let stranger = format!("{}-stranger", play.namespace);
    cluster.apply(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": stranger, "labels": {LABEL: "tenant"}}}),
        pods::pod(&play.namespace, "scraper", &suite.image, "sleep 100000", &[]),
        pods::pod(&stranger, "scraper", &suite.image, "sleep 100000", &[]),
    ])?;
    for namespace in [&play.namespace, &stranger] {
        let wait = ["wait", "--for=condition=Ready", "pod/scraper", "--timeout=60s"];
        cluster.kubectl(&[&wait[..], &["--namespace", namespace]].concat())?;
    }
    let address = cluster.field(&["service", RELEASE, "--namespace", SYSTEM], ".spec.clusterIP")?;
    let scrape = format!(
        "curl --fail --max-time 3 -sS --output /dev/null http://{}:8080/metrics",
        address.trim()
    );
    let reads = |namespace: &str| -> bool {
        let exec = ["exec", "scraper", "--namespace", namespace, "--", "sh", "-c", &scrape];
        cluster.kubectl(&exec).is_ok()
    };
    check(
        reads(&play.namespace) && reads(&stranger),
        "the metrics cannot be read at all",
    )?;
    play.time_to_key("before", 40)?;

    let mut command = process::clean(Command::new(&router));
    command
        .arg("--kubeconfig")
        .arg(node.plane().kubeconfig())
        .args(["--run-firewall=true", "--run-router=false", "--run-service-proxy=false"])
        .args([
            "--hostname-override=valet-node",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--v=1",
        ]);
    let enforcer = Process::start("kube-router", command, cluster.scratch().join("kube-router.log"))?;
    let began = Instant::now();
    enforcer.wait_until(Duration::from_secs(60), "it enforced the policy", || !reads(&stranger))?;
    play.note(format!(
        "enforced {:.1} s after the network's start",
        began.elapsed().as_secs_f64()
    ));
    check(reads(&play.namespace), "the allowed pod cannot read metrics")?;

    // The port of the store is not in the default values. A grant of a new store waits, and its condition gives the
    // reason.
    let store = format!("e2e-network-{}", suite.run);
    suite.make_store_at(&store, "s3", json!([pods::rule_for_all(LABEL)]))?;
    cluster.apply(&[pods::upload(&play.namespace, "shut", &store, LONG)])?;
    play.wait_condition("ug/shut", "Ready", "False", "StoreUnreachable", 60)?;
    // After the port is added, the store works, and no other traffic is allowed.
    suite.install(
        &suite.chart(),
        &[&values[..], &["networkPolicy.egress.stores.ports={443,9000}"]].concat(),
    )?;
    suite.ready()?;
    play.wait_condition("ug/shut", "Ready", "True", "Issued", 90)?;
    play.time_to_key("after", 40)?;
    check(
        reads(&play.namespace) && !reads(&stranger),
        "the policy has changed for who reads metrics",
    )?;

    drop(enforcer);
    let mut command = process::clean(Command::new(&router));
    command.arg("--cleanup-config");
    process::run(command, &[], Duration::from_secs(30))?;
    cluster.kubectl(&["delete", "clusterobjectstore", &store])?;
    cluster.kubectl(&["delete", "namespace", &stranger, "--wait=false"])?;
    suite.install(&suite.chart(), &[])?;
    check(
        cluster.exists(&["clusterobjectstore", STORE])?,
        "the shared store is gone",
    )?;
    suite.ready()
}
