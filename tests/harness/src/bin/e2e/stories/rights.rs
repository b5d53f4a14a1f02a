//! Tests of the operator's permissions and metrics.

use serde_json::json;
use valet_harness::{Context, Result};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{RELEASE, STORE, SYSTEM},
};

/// A pod of a tenant reads the metrics as Prometheus does.
pub fn metrics(play: &Play) -> Result<()> {
    let cluster = &play.suite.cluster;
    cluster.apply(&[
        pods::upload(&play.namespace, "counted", STORE, LONG),
        pods::pod(
            &play.namespace,
            "scraper",
            &play.suite.image,
            "sleep 100000",
            &["counted"],
        ),
    ])?;
    play.wait_for("condition=Ready", "pod/scraper", 60)?;
    let address = cluster.field(&["service", RELEASE, "--namespace", SYSTEM], ".spec.clusterIP")?;
    let port = cluster.field(&["service", RELEASE, "--namespace", SYSTEM], ".spec.ports[0].port")?;
    // One replica is the leader and the other a standby. The Service can select either.
    let ours = format!("namespace=\"{}\"", play.namespace);
    let text = cluster.wait(30, "a scrape that the leader answered", || {
        let text = play.exec("scraper", &format!("curl --fail -sS http://{address}:{port}/metrics"))?;
        check(text.contains("valet_build_info"), "no valet_build_info in the metrics")?;
        Ok((text.contains("valet_leader 1") && text.contains(&ours)).then_some(text))
    })?;
    let line = text
        .lines()
        .find(|line| line.starts_with("valet_credential_expiration_timestamp_seconds") && line.contains(&ours))
        .context("the metrics do not contain the live grant")?;
    check(line.contains("name=\"counted\""), format!("another grant's: {line}"))?;
    check(
        text.contains("valet_credentials_issued_total{kind=\"UploadGrant\"}"),
        "issued credentials are not counted",
    )?;
    for never in ["X-Amz-", "http://", "tenants/"] {
        check(!text.contains(never), format!("{never:?} is in the metrics"))?;
    }
    play.note(format!(
        "{} series in one scrape",
        text.lines().filter(|line| !line.starts_with('#')).count()
    ));
    Ok(())
}

/// Checks the security settings of the operator's processes on the node.
pub fn posture(play: &Play) -> Result<()> {
    let suite = play.suite;
    let level = suite.cluster.field(
        &["namespace", SYSTEM],
        ".metadata.labels.pod-security\\.kubernetes\\.io/enforce",
    )?;
    check(level == "restricted", format!("{SYSTEM} is at the level {level:?}"))?;
    let operators = suite.operators()?;
    check(
        operators.len() == 2,
        format!("{} replicas instead of 2", operators.len()),
    )?;
    let script = "grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|Seccomp|VmRSS):' /proc/$p/status; \
                  awk '$2 == \"/\" { print \"root:\", $4 }' /proc/$p/mounts; echo end";
    let said = suite
        .privileged_pods
        .each(&suite.cluster, &operators, "valet", script)?;
    let processes: Vec<&str> = said.split("end\n").filter(|text| !text.trim().is_empty()).collect();
    check(
        processes.len() == 2,
        format!("{} processes in 2 pods: {said}", processes.len()),
    )?;
    for process in processes {
        let line = |name: &str| {
            let found = process.lines().find_map(|line| line.strip_prefix(name));
            found
                .map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" "))
                .unwrap_or_default()
        };
        check(
            line("Uid:") == "65532 65532 65532 65532",
            format!("it runs as {}", line("Uid:")),
        )?;
        check(
            line("Gid:").starts_with("65532"),
            format!("its group is {}", line("Gid:")),
        )?;
        for capabilities in ["CapEff:", "CapBnd:"] {
            let set = line(capabilities);
            check(set.chars().all(|digit| digit == '0'), format!("{capabilities} {set}"))?;
        }
        check(line("NoNewPrivs:") == "1", "it may gain rights")?;
        check(line("Seccomp:") == "2", "no seccomp filter")?;
        check(
            line("root:").split(',').any(|option| option == "ro"),
            format!("its root is {}", line("root:")),
        )?;
        let memory = line("VmRSS:")
            .trim_end_matches(" kB")
            .parse::<f64>()
            .unwrap_or_default()
            / 1024.0;
        play.note(format!("memory of one replica: {memory:.1} MiB resident"));
    }
    Ok(())
}

/// Tries actions with the token of the operator's service account.
pub fn account(play: &Play) -> Result<()> {
    let cluster = &play.suite.cluster;
    let who = format!("--as=system:serviceaccount:{SYSTEM}:{RELEASE}");
    let namespace = ["--namespace", play.namespace.as_str()];
    cluster.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "precious", "namespace": play.namespace},
            "stringData": {"password": "tell-nobody"},
        }),
        pods::upload(&play.namespace, "proper", STORE, LONG),
    ])?;
    play.wait_for("condition=Ready", "ug/proper", 30)?;

    for bulk in [
        &["get", "secrets", "--all-namespaces"][..],
        &["get", "secrets", namespace[0], namespace[1]],
    ] {
        let said = cluster.kubectl_refused(&[bulk, &[&who]].concat())?;
        check(
            said.contains("cannot list resource \"secrets\""),
            format!("refused, but not as a list: {said}"),
        )?;
    }
    let patch = r#"{"stringData":{"password":"changed"}}"#;
    let label = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"valet"}}}"#;
    for (what, args) in [
        ("delete", &["delete", "secret", "precious"][..]),
        ("change", &["patch", "secret", "precious", "--type=merge", "-p", patch]),
        ("relabel", &["patch", "secret", "precious", "--type=merge", "-p", label]),
        (
            "create",
            &["create", "secret", "generic", "another", "--from-literal=a=b"],
        ),
    ] {
        let said = cluster.kubectl_refused(&[args, &namespace[..], &[&who]].concat())?;
        check(
            said.contains("ValidatingAdmissionPolicy") || said.contains("cannot patch"),
            format!("{what}: refused for another reason: {said}"),
        )?;
    }
    let precious = play.field("secret/precious", ".data.password")?;
    check(precious == "dGVsbC1ub2JvZHk=", "the Secret has changed")?;
    // Actions that the operator needs are allowed.
    cluster
        .kubectl(&[&["delete", "secret", "proper"], &namespace[..], &[&who]].concat())
        .map(|_| ())
}
