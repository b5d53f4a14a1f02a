//! Tests of the runbooks: each alert has one page, and the commands of the pages work.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use serde_json::json;
use valet_harness::{ControlPlane, ControlPlaneOptions, Scratch, process};

use crate::{ALERTS, TOOLS, alerts, all_rules, path, read, text};

fn pages() -> BTreeSet<String> {
    let files = fs::read_dir(path("docs/runbooks")).expect("there are runbooks");
    files
        .filter_map(|f| {
            f.expect("a file")
                .file_name()
                .to_str()?
                .strip_suffix(".md")
                .map(str::to_owned)
        })
        .filter(|name| name != "README")
        .collect()
}

#[test]
fn each_alert_has_one_runbook_and_each_runbook_one_alert() {
    assert_eq!(pages(), alerts());
    let index = read("docs/runbooks/README.md");
    for rule in all_rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let severity = text(&rule["labels"]["severity"]);
        let page = read(&format!("docs/runbooks/{alert}.md"));
        assert!(page.starts_with(&format!("# {alert}\n")), "{alert}: its title");
        for part in [
            "## Meaning",
            "## Impact",
            "## Diagnosis",
            "## Mitigation",
            "## When the alert clears",
        ] {
            assert!(page.contains(part), "{alert}.md has no '{part}'");
        }
        let head = page.split("## ").next().unwrap_or_default();
        assert!(
            head.contains(&format!("**{severity}**")),
            "{alert}.md does not contain the severity {severity}"
        );
        let line = index
            .lines()
            .find(|line| line.starts_with(&format!("| [{alert}]({alert}.md) |")));
        let line = line.unwrap_or_else(|| panic!("the index has no line for {alert}"));
        assert!(line.contains(severity), "{line}");
    }
}

/// Runs every command of a `sh` block against a real API server that has the objects of the pages. There are no
/// nodes, so commands that need a pod are left out.
#[test]
fn commands_of_the_runbooks_work() {
    const NEEDS_PODS: &str = "/proxy/metrics";
    let crds = read("crds/valet.yaml");
    let options = ControlPlaneOptions {
        manifests: vec![crds],
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start_with(&TOOLS, options).unwrap();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let keys = json!({"name": "media-keys", "namespace": "valet-system"});
    let media = json!({"s3": {"bucket": "media", "region": "us-east-1", "credentials": {"secretRef": {"name": "media-keys"}}}});
    let grant =
        json!({"storeRef": {"kind": "ClusterObjectStore", "name": "media"}, "key": "a", "expirationSeconds": 60});
    let group = "valetkey.dev/v1alpha1";
    let items = [
        namespace("valet-system"),
        namespace("web"),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": keys, "stringData": {"AWS_ACCESS_KEY_ID": "x"}}),
        json!({"apiVersion": group, "kind": "ClusterObjectStore", "metadata": {"name": "media"}, "spec": media}),
        json!({"apiVersion": group, "kind": "UploadGrant", "metadata": {"name": "a", "namespace": "web"}, "spec": grant}),
        json!({"apiVersion": group, "kind": "DownloadGrant", "metadata": {"name": "a", "namespace": "web"}, "spec": grant}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "valet", "namespace": "valet-system"}}),
    ];
    plane.apply_all(&items).expect("the objects can be applied");
    for kind in ["ug", "dg"] {
        let status = r#"{"status":{"expirationTime":"2035-01-31T18:00:00Z"}}"#;
        plane
            .kubectl(&[
                "patch",
                kind,
                "a",
                "-n",
                "web",
                "--subresource=status",
                "--type=merge",
                "--patch",
                status,
            ])
            .unwrap();
    }
    let mut tried = 0;
    for page in pages() {
        for block in read(&format!("docs/runbooks/{page}.md")).split("```sh\n").skip(1) {
            for line in block.split("```").next().unwrap_or_default().lines() {
                if line.contains(NEEDS_PODS) {
                    continue;
                }
                // The API server checks the pod against the namespace's Pod Security level, but does not create it.
                let line = &line.replace(" --rm -i ", " --dry-run=server ");
                let mut shell = process::clean(Command::new("bash"));
                shell
                    .args(["-euo", "pipefail", "-c", line])
                    .env("KUBECONFIG", plane.kubeconfig())
                    .env("HOME", plane.scratch().join("home"))
                    .env(
                        "PATH",
                        format!(
                            "{}:{}",
                            TOOLS.folder().display(),
                            std::env::var("PATH").unwrap_or_default()
                        ),
                    );
                let output = process::run(shell, b"", Duration::from_secs(30)).unwrap();
                // `auth can-i` answers "no" with exit status 1, because the service account does not exist here.
                let refused = line.contains("auth can-i") && output.text().trim() == "no";
                assert!(
                    output.status.success() || refused,
                    "{page}.md: {line}\n{}",
                    output.stderr
                );
                tried += 1;
            }
        }
    }
    assert!(tried >= 40, "{tried} commands");
}

/// promtool accepts the Prometheus configuration in docs/monitoring.md.
#[test]
fn documented_prometheus_configuration_is_valid() {
    let page = read("docs/monitoring.md");
    let block = page
        .split("```yaml\n# prometheus.yml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let scratch = Scratch::new("prometheus").unwrap();
    let file = scratch
        .write("prometheus.yml", block.expect("the page shows it"))
        .unwrap();
    scratch.write("alerts.yaml", read(ALERTS)).unwrap();
    let mut promtool = TOOLS.command("promtool");
    promtool.args(["check", "config"]).arg(file);
    let output = process::run(promtool, b"", Duration::from_secs(30)).unwrap();
    assert!(output.status.success(), "{}{}", output.text(), output.stderr);
}
