//! Tests of failures of the operator while tenants use Valet.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{Context, Error, Process, Result};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{STORE, SYSTEM},
};

/// The operator is stopped at each stage of a grant.
pub fn away(play: &Play) -> Result<()> {
    const SHORT: u64 = 20;
    let (suite, namespace, image) = (play.suite, play.namespace.as_str(), play.suite.image.as_str());
    let key = format!("tenants/{namespace}/over");
    let secrets = suite.watch_secrets(namespace)?;
    suite.cluster.apply(&[
        pods::upload(namespace, "sent", STORE, LONG),
        pods::download(namespace, "over", STORE, &key, SHORT),
        pods::pod(namespace, "sender", image, "sleep 100000", &["sent"]),
    ])?;
    play.wait_for("condition=Ready", "dg/over", 30)?;
    let ends = Instant::now() + Duration::from_secs(SHORT);
    play.wait_for("condition=Ready", "pod/sender", 30)?;

    suite.scale(0)?;
    // Stage 1: before the Secret is created.
    let script = "echo new >/work/file; curl --config /new/curl.cfg --upload-file /work/file";
    suite.cluster.apply(&[
        pods::upload(namespace, "new", STORE, LONG),
        pods::pod(namespace, "newcomer", image, script, &["new"]),
    ])?;
    // Stage 2: before completion. A live credential works without the operator.
    play.exec(
        "sender",
        "echo sent >/work/file; curl --config /sent/curl.cfg --upload-file /work/file",
    )?;
    // Stage 3: at the expiry of a credential.
    thread::sleep(ends.saturating_duration_since(Instant::now()) + Duration::from_secs(2));
    check(
        play.exists("secret/over")?,
        "another client has deleted the Secret of the expired credential",
    )?;
    check(!play.exists("secret/new")?, "another client has issued a credential")?;

    let began = Instant::now();
    suite.scale(2)?;
    play.wait_condition("dg/over", "Ready", "True", "Expired", 30)?;
    play.wait_secret_gone("over", 5)?;
    play.wait_for("condition=Completed", "ug/sent", 90)?;
    play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/newcomer", 120)?;
    play.wait_for("condition=Completed", "ug/new", 90)?;
    play.note(format!(
        "all made up for {:.0} s after the return",
        began.elapsed().as_secs_f64()
    ));
    let keys = secrets.keys();
    check(
        keys == ["new", "over", "sent"].map(|name| (name.to_owned(), 1)),
        format!("not one credential per grant: {keys:?}"),
    )
}

/// The leader is lost in three ways: killed, frozen or stopped.
pub fn handover(play: &Play) -> Result<()> {
    let suite = play.suite;
    let rounds: u32 = env::var("E2E_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let secrets = suite.watch_secrets(&play.namespace)?;
    let mut names = Vec::new();
    for round in 0..rounds {
        for (way, most) in [("deleted", 10), ("killed", 25), ("frozen", 25)] {
            suite.ready()?;
            let leader = suite.leader()?;
            let this = std::slice::from_ref(&leader);
            match way {
                "deleted" => {
                    suite
                        .cluster
                        .kubectl(&["delete", "pod", &leader.name, "--namespace", SYSTEM, "--wait=false"])?;
                }
                "killed" => check(
                    suite.privileged_pods.signal(&suite.cluster, this, "KILL")? == 1,
                    "nobody was killed",
                )?,
                _ => check(
                    suite.privileged_pods.signal(&suite.cluster, this, "STOP")? == 1,
                    "nobody was frozen",
                )?,
            }
            let name = format!("{way}-{round}");
            let took = play.time_to_key(&name, 60)?;
            let holder = suite
                .cluster
                .field(&["lease", "valet", "--namespace", SYSTEM], ".spec.holderIdentity")?;
            let same = if holder.starts_with(&leader.name) {
                "itself, restarted"
            } else {
                "the other replica"
            };
            play.note(format!(
                "leader {way}: the next credential after {:.1} s, by {same}",
                took.as_secs_f64()
            ));
            check(
                took < Duration::from_secs(most),
                format!("{way}: the next credential took {} s", took.as_secs_f64()),
            )?;
            names.push((name, 1));
            if way == "frozen" {
                // The frozen leader continues after it has lost the Lease. It must not continue to work as the
                // leader.
                suite.privileged_pods.signal(&suite.cluster, this, "CONT")?;
                let path = ".status.containerStatuses[0].restartCount";
                suite.cluster.wait(30, "the frozen replica to end", || {
                    let count = suite
                        .cluster
                        .field(&["pod", &leader.name, "--namespace", SYSTEM], path)?;
                    Ok((count.trim() != "0" && !count.trim().is_empty()).then_some(()))
                })?;
            }
        }
    }
    suite.ready()?;
    names.sort();
    let keys = secrets.keys();
    check(keys == names, format!("not one credential per grant: {keys:?}"))
}

/// The node of the leader is drained with kubectl.
pub fn drain(play: &Play) -> Result<()> {
    let suite = play.suite;
    suite.ready()?;
    play.time_to_key("before", 30)?;
    let live = play.published("before")?;
    let leader = suite.leader()?;
    let before: Vec<String> = suite.operators()?.into_iter().map(|pod| pod.name).collect();
    let node = suite
        .cluster
        .field(&["pod", &leader.name, "--namespace", SYSTEM], ".spec.nodeName")?;

    let mut command = suite.cluster.kubectl_command();
    command.args([
        "drain",
        node.trim(),
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=90s",
    ]);
    // Only the pods of Valet are drained. The S3 server and pods of other users can be on the same node.
    command.args(["--pod-selector=app.kubernetes.io/name=valet"]);
    let log = suite.cluster.scratch().join("drain.log");
    let drain = Process::start("kubectl drain", command, log)?;
    let result = drained(play, &drain, &before, node.trim());
    suite.cluster.kubectl(&["uncordon", node.trim()])?;
    result?;
    let status = drain
        .wait(Duration::from_secs(90))
        .context("kubectl drain does not end")?;
    check(status.success(), format!("kubectl drain failed: {}", drain.log_text()))?;
    suite.ready()?;
    let after = suite.operators()?;
    check(
        after.iter().all(|pod| !before.contains(&pod.name)),
        "a replica was not evicted",
    )?;
    check(play.published("before")? == live, "an issued credential has changed")?;
    play.time_to_key("after", 30)?;
    let tries = drain.log_text().matches("Cannot evict pod").count();
    play.note(format!("the disruption budget held the drain back {tries} times"));
    Ok(())
}

/// During the drain: one replica is evicted, and one stays.
fn drained(play: &Play, drain: &Process, before: &[String], node: &str) -> Result<()> {
    let suite = play.suite;
    suite.cluster.wait(40, "the first replica to be evicted", || {
        let now: Vec<String> = suite.operators()?.into_iter().map(|pod| pod.name).collect();
        Ok(before.iter().any(|name| !now.contains(name)).then_some(()))
    })?;
    // On a cluster with one node, the new replica is not scheduled until the drain has finished. The other replica must
    // stay.
    let nodes = suite.cluster.json(&["get", "nodes"])?["items"]
        .as_array()
        .map_or(0, Vec::len);
    let took = play.time_to_key("during", 40)?;
    play.note(format!(
        "a credential during the drain after {:.1} s",
        took.as_secs_f64()
    ));
    if nodes == 1 {
        check(
            drain.is_running(),
            format!("the drain of the only node {node} ended: {}", drain.log_text()),
        )?;
        let now = suite.operators()?;
        check(
            now.len() == 1 && before.contains(&now[0].name),
            "not exactly one of the old replicas is there",
        )?;
    }
    Ok(())
}

/// Grants while both replicas work at the same time and are killed at random times.
pub fn crashes(play: &Play) -> Result<()> {
    const ROUNDS: usize = 6;
    const EACH: usize = 5;
    let suite = play.suite;
    suite.install(&suite.chart(), &["leaderElect=false"])?;
    suite.ready()?;
    let secrets = suite.watch_secrets(&play.namespace)?;
    let mut killed = 0;
    for round in 0..ROUNDS {
        let operators = suite.operators()?;
        // A time between the first grant and the last status.
        let pause = Duration::from_millis([0, 60, 120, 200, 300, 450][round % 6]);
        let grants: Vec<Value> = (0..EACH)
            .map(|n| pods::upload(&play.namespace, &format!("g-{:02}", round * EACH + n), STORE, LONG))
            .collect();
        killed += thread::scope(|scope| -> Result<usize> {
            let applied = scope.spawn(|| play.suite.cluster.apply(&grants));
            thread::sleep(pause);
            let killed = suite.privileged_pods.signal(&suite.cluster, &operators, "KILL")?;
            applied.join().map_err(|_| Error::new("kubectl's thread panicked"))??;
            Ok(killed)
        })?;
        // Kubernetes delays the restart of a container that exits repeatedly. It does not delay new pods, so the pods
        // are deleted.
        let names: Vec<&str> = operators.iter().map(|pod| pod.name.as_str()).collect();
        let delete = [
            "delete",
            "pod",
            "--namespace",
            SYSTEM,
            "--grace-period=1",
            "--wait=false",
            "--ignore-not-found",
        ];
        suite.cluster.kubectl(&[&delete[..], &names].concat())?;
        suite.cluster.wait(40, "a replica that works", || {
            let ready = suite
                .cluster
                .field(&["deployment", "valet", "--namespace", SYSTEM], ".status.readyReplicas")?;
            Ok((!ready.trim().is_empty() && ready.trim() != "0").then_some(()))
        })?;
    }
    check(killed >= ROUNDS, format!("only {killed} processes were killed"))?;
    let all: Vec<String> = (0..ROUNDS * EACH).map(|n| format!("g-{n:02}")).collect();
    play.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "uploadgrants",
        "--all",
        "--timeout=60s",
    ])?;

    // One pod uses each credential once. Each must work.
    let sources: Vec<Value> = all
        .iter()
        .map(|name| json!({"secret": {"name": name, "items": [{"key": "curl.cfg", "path": format!("{name}.cfg")}]}}))
        .collect();
    let script = "for c in /keys/*.cfg; do n=$(basename $c .cfg); echo $n >/work/$n; curl --config $c --upload-file /work/$n; done";
    let mut pod = pods::pod(&play.namespace, "user", &suite.image, script, &[]);
    push(
        &mut pod,
        "/spec/volumes",
        json!({"name": "keys", "projected": {"sources": sources}}),
    );
    push(
        &mut pod,
        "/spec/containers/0/volumeMounts",
        json!({"name": "keys", "mountPath": "/keys", "readOnly": true}),
    );
    suite.cluster.apply(&[pod])?;
    play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/user", 90)?;
    play.kubectl(&[
        "wait",
        "--for=condition=Completed",
        "uploadgrants",
        "--all",
        "--timeout=120s",
    ])?;
    for name in [&all[0], &all[all.len() - 1]] {
        let found = suite
            .s3
            .get(&suite.cluster, &format!("tenants/{}/{name}", play.namespace))?;
        check(found.trim() == name, format!("the store has {found:?} for {name}"))?;
    }
    let keys = secrets.keys();
    let expected: Vec<(String, usize)> = all.into_iter().map(|name| (name, 1)).collect();
    check(keys == expected, format!("not one credential per grant: {keys:?}"))?;
    play.note(format!(
        "{killed} processes killed while {} grants were made",
        expected.len()
    ));
    suite.install(&suite.chart(), &[])?;
    suite.ready()
}

fn push(object: &mut Value, pointer: &str, element: Value) {
    if let Some(list) = object.pointer_mut(pointer).and_then(Value::as_array_mut) {
        list.push(element);
    }
}
