//! What the documents say: commands are run, values are accepted, tables are those of the chart.

use std::{process::Command, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use valet_harness::{ControlPlane, Tools, process};

use crate::helm::{CHART, objects, ok};

const ROOT: &str = env!("VALET_ROOT");

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/docs/{name}")).expect("the document is there")
}

/// The blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// What there is when the operator has gone: grants that are held, one of them with somebody else's finalizer before
/// Valet's, one that is being deleted, and one that is not held.
const HELD: &str = r#"
for namespace in films music; do kubectl create namespace "$namespace"; done
grant() {
  kubectl create -f - <<EOF
{"apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "metadata": {"name": "$2", "namespace": "$1", "finalizers": [$3]},
 "spec": {"storeRef": {"name": "media"}, "key": "k", "mode": "Multipart", "constraints": {"contentLength": 1}}}
EOF
}
grant films held '"valetkey.dev/multipart"'
grant films free ''
grant music both '"example.com/theirs", "valetkey.dev/multipart"'
grant music going '"valetkey.dev/multipart"'
kubectl delete uploadgrant going --namespace music --wait=false
"#;

/// Nobody is held any more, but by others.
const LET_GO: &str = r#"
left=$(kubectl get uploadgrants --all-namespaces --output jsonpath='{range .items[*]}{.metadata.name}={.metadata.finalizers[*]} {end}')
test "$left" = 'free= held= both=example.com/theirs '
kubectl patch uploadgrant both --namespace music --type=merge --patch '{"metadata":{"finalizers":null}}'
"#;

/// Every command for the shell, in the order in which it stands there, against a real control plane.
#[test]
fn the_commands_of_the_documents_run() {
    let tools = Tools::locate().expect("the tools build");
    let plane = ControlPlane::start(&tools).expect("the control plane starts");
    let mut script = [
        blocks(&document("install.md"), "sh"),
        blocks(&document("reference/permissions.md"), "sh"),
    ]
    .concat();
    assert!(script.len() >= 8, "{}", script.len());
    for block in &mut script {
        if block.contains("finalizers") {
            *block = format!("{HELD}\n{block}\n{LET_GO}");
        }
    }
    assert_eq!(script.iter().filter(|b| b.contains(HELD)).count(), 1);
    let mut command = process::clean(Command::new("bash"));
    let path = format!(
        "{}:{}",
        tools.folder().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    command
        .current_dir(ROOT)
        .env("PATH", path)
        .env("HOME", plane.scratch().join("home"))
        .env("KUBECONFIG", plane.kubeconfig())
        .args(["-euxo", "pipefail", "-c", &script.join("\n")]);
    let output = process::run(command, b"", Duration::from_secs(240)).expect("bash runs");
    assert!(output.status.success(), "{}{}", output.text(), output.stderr);
    for gone in ["crd", "clusterobjectstores"] {
        let left = plane.kubectl(&["get", gone, "--output", "name"]).unwrap_or_default();
        assert!(!left.contains("valetkey.dev"), "{left}");
    }
}

/// Every values file in the documents, and those inside an Application and a HelmRelease.
#[test]
fn the_values_in_the_documents_are_accepted() {
    let mut seen = 0;
    for block in blocks(&document("install.md"), "yaml") {
        for part in serde_yaml::Deserializer::from_str(&block) {
            let part = Value::deserialize(part).expect("it is YAML");
            let values = match part["kind"].as_str() {
                None => part,
                Some("Application") => part["spec"]["source"]["helm"]["valuesObject"].clone(),
                Some("HelmRelease") => part["spec"]["values"].clone(),
                Some(_) => continue,
            };
            let scratch = valet_harness::Scratch::new("values").expect("a folder can be made");
            let file = scratch
                .write("values.yaml", values.to_string())
                .expect("the file can be written");
            ok(&[
                "template",
                "valet",
                CHART,
                "--values",
                file.to_str().expect("a plain path"),
            ]);
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}

/// The rules that stand in the document are those of the chart.
#[test]
fn the_table_of_rights_is_the_charts() {
    let text = document("reference/permissions.md");
    let rendered = objects(&[]);
    let mut rows = 0;
    for role in [
        rendered.get("ClusterRole", "valet"),
        rendered.get("Role", "valet-operator"),
    ] {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str, quote: &str| {
                let all: Vec<_> = rule[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                all.iter()
                    .map(|w| format!("{quote}{w}{quote}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let named = match words("resourceNames", "`") {
                names if names.is_empty() => String::new(),
                names => format!(" named {names}"),
            };
            let row = format!("| {}{named} | {} |", words("resources", "`"), words("verbs", ""));
            assert!(text.contains(&row), "{row}");
            rows += 1;
        }
    }
    let (tables, _) = text.split_once("## Secrets").expect("the section is there");
    assert_eq!(
        tables.lines().filter(|l| l.starts_with("| `")).count(),
        rows,
        "no other rows"
    );
}
