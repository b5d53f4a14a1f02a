//! Tests of the documentation: its commands run, its values are accepted, and its tables match the chart.

use std::{process::Command, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use valet_harness::{
    ControlPlane, Tools, process,
    rights::{self, Chart},
};

use crate::{
    helm::{CHART, objects, ok, refused, set},
    world::Tenant,
};

const ROOT: &str = env!("VALET_ROOT");

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/docs/{name}")).expect("the document is there")
}

/// The code blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// The objects that remain after the operator was removed: grants with a finalizer, one of them with another system's
/// finalizer, one grant that is being deleted, and one without a finalizer.
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

/// Checks that Valet's finalizers are gone and that the other system's finalizer is still there.
const LET_GO: &str = r#"
left=$(kubectl get uploadgrants --all-namespaces --output jsonpath='{range .items[*]}{.metadata.name}={.metadata.finalizers[*]} {end}')
test "$left" = 'free= held= both=example.com/theirs '
kubectl patch uploadgrant both --namespace music --type=merge --patch '{"metadata":{"finalizers":null}}'
"#;

/// Runs every shell command of the documents in order against a real control plane.
#[test]
fn documented_commands_run() {
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

/// The value names in the comparison with other charts exist in this chart.
#[test]
fn value_names_in_comparison_with_other_charts_exist() {
    let text = document("install.md");
    let values: Value = serde_yaml::from_str(&ok(&["show", "values", CHART])).expect("values are YAML");
    let section = text
        .split("### If you know other charts")
        .nth(1)
        .expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut seen = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let here = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in here.split('`').skip(1).step_by(2).filter(|name| *name != "null") {
            let value = values.pointer(&format!("/{}", name.replace('.', "/")));
            assert!(value.is_some(), "{name}: {row}");
            seen += 1;
        }
    }
    assert!(seen >= 25, "{seen}");
    // The last sentences of the section are also true.
    let none = objects(&["livenessProbe=null", "readinessProbe=null"]);
    assert_eq!(none.container()["livenessProbe"], Value::Null);
    assert_eq!(none.container()["readinessProbe"], Value::Null);
    let said = refused(&["template", "valet", CHART, "--set", "concurrent=4"]);
    assert!(said.contains("concurrent"), "{said}");
}

/// A user can copy the commands that helm prints after an install: they start at the left margin, and the
/// here-documents end.
#[test]
fn commands_in_the_install_notes_run() {
    let (t, tenant) = (Tenant::new("notes"), Tenant::new("notes-tenant"));
    let scoped = format!("scopedNamespace={}", tenant.name());
    let (first, second) = (notes(t.name(), &[]), notes(t.name(), &[&scoped]));
    let creates = |text: &str| text.contains("\nkubectl create namespace ");
    assert!(
        creates(&first) && !creates(&second),
        "the namespace that is served is there already"
    );
    // The script leaves out commands that wait for pods or for a reachable store, because the test has neither.
    let waits = [" rollout status ", " wait --for="];
    let script: Vec<_> = second
        .lines()
        .skip_while(|line| !line.starts_with("kubectl"))
        .filter(|line| {
            !waits.iter().any(|w| line.contains(w))
                && !line.starts_with(|c: char| c.is_ascii_digit())
                && !line.starts_with("The credential is")
        })
        .take_while(|line| !line.starts_with("Metrics are at"))
        .collect();
    let plane = &t.world.plane;
    let mut command = process::clean(Command::new("bash"));
    let path = format!(
        "{}:{}",
        plane.tools().folder().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    // The documented store name would collide with other tests, so the script uses the name of this test.
    let script = script.join("\n").replace("media", t.name());
    command
        .env("PATH", path)
        .env("HOME", plane.scratch().join("home"))
        .env("KUBECONFIG", plane.kubeconfig())
        .args(["-euxo", "pipefail", "-c", &script]);
    let output = process::run(command, b"", Duration::from_secs(60)).expect("bash runs");
    // bash only warns about a here-document without an end, so the test searches for the warning.
    assert!(
        output.status.success() && !output.stderr.contains("here-document"),
        "{script}\n{}{}",
        output.text(),
        output.stderr
    );
    let grant = tenant.get("uploadgrant/first").expect("the tenant's grant exists");
    let store = t
        .get(&format!("clusterobjectstore/{}", t.name()))
        .expect("the store is there");
    let rule = &store["spec"]["access"][0];
    assert_eq!(rule["namespaces"]["names"][0], tenant.name());
    // The access rule from the notes allows the grant from the notes.
    let prefix = rule["keyPrefix"]
        .as_str()
        .unwrap_or_default()
        .replace("{namespace}", tenant.name());
    assert!(
        grant["spec"]["key"].as_str().unwrap_or_default().starts_with(&prefix),
        "{grant:#}"
    );
    assert!(
        t.get(&format!("secret/{}-keys", t.name())).is_some(),
        "the credentials are in the release's namespace"
    );
}

fn notes(namespace: &str, values: &[&str]) -> String {
    let args = [
        "install",
        "valet",
        CHART,
        "--namespace",
        namespace,
        "--dry-run=client",
        "--output",
        "json",
    ];
    let said: Value = serde_json::from_str(&ok(&[&args[..], &set(values)].concat())).expect("helm prints JSON");
    said["info"]["notes"].as_str().expect("there are notes").to_owned()
}

/// helm accepts every values file in the documents, and the values in their Application and HelmRelease.
#[test]
fn documented_values_are_accepted() {
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

/// The rules in the document are the rules of the chart.
#[test]
fn documented_permissions_equal_those_of_the_chart() {
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

/// Generates Valet's rows of the comparison table again: the rights that kubectl lists, and the results of attempted
/// requests.
#[test]
fn permission_comparison_equals_the_answers_of_kubectl() {
    let text = document("reference/permissions.md");
    assert!(text.contains(rights::HEAD), "the head of the table");
    let mut count = 0;
    for (title, values) in [
        ("Valet", vec![]),
        ("Valet, `scopedNamespace=team-a`", vec!["scopedNamespace=SERVED"]),
        (
            "Valet, `rbac.secretsNamespaces={team-a}`",
            vec!["rbac.secretsNamespaces={SERVED}"],
        ),
    ] {
        let [own, served, other] = ["rights-own", "rights-served", "rights-other"].map(Tenant::new);
        // Cluster-wide policies would also apply to tests that run at the same time.
        let mut values: Vec<_> = values.iter().map(|v| v.replace("SERVED", served.name())).collect();
        values.extend(
            [
                "admissionPolicy.gitops.enabled=false",
                "admissionPolicy.grantSecrets.enabled=false",
                "serviceAccount.name=valet",
            ]
            .map(str::to_owned),
        );
        let chart = Chart {
            title: title.to_owned(),
            path: CHART.as_ref(),
            release: &format!("valet-{}", own.name()),
            namespace: own.name(),
            values,
            served: title.contains("team-a").then_some(served.name()),
            other: other.name(),
        };
        for row in rights::rows(&own.world.plane, &chart).expect("the chart can be asked about") {
            assert!(text.contains(&row), "{row}");
            count += 1;
        }
    }
    let rows = text
        .lines()
        .filter(|l| l.starts_with("| Valet") && l.contains("| `valet` |"))
        .count();
    assert_eq!(count, rows, "no other rows of Valet");
}

/// Each rule of a role has a sentence above it that gives its reason.
#[test]
fn every_rbac_rule_has_a_reason() {
    let mut rules = 0;
    for file in ["rbac.yaml", "aggregatedroles.yaml"] {
        let text = std::fs::read_to_string(format!("{CHART}/templates/{file}")).expect("the template is there");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (at, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.starts_with("- apiGroups:"))
        {
            let above = lines[..at].last().copied().unwrap_or_default();
            assert!(
                above.starts_with("# ") && above.ends_with('.'),
                "{file}:{}: {line} has no sentence above it",
                at + 1
            );
            rules += 1;
        }
    }
    assert!(rules >= 15, "{rules}");
}
