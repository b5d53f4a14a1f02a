//! Tests of the chart with several shards (`shards`).

use serde_json::{Value, json};

use crate::helm::{self, CHART, objects, refused, set, text};

fn args(deployment: &Value) -> Vec<&str> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().expect("there are arguments");
    args.iter().map(|arg| arg.as_str().expect("a text")).collect()
}

#[test]
fn each_shard_has_a_deployment_a_budget_and_a_lease() {
    let all = objects(&["shards=3", "networkPolicy.enabled=true", "serviceMonitor.enabled=true"]);
    let names = |kind: &str| -> Vec<String> {
        let objects = all.kind(kind);
        objects
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let expected = ["valet-shard-0", "valet-shard-1", "valet-shard-2"];
    assert_eq!(names("Deployment"), expected);
    assert_eq!(names("PodDisruptionBudget"), expected);
    for (index, name) in expected.iter().enumerate() {
        let deployment = all.get("Deployment", name);
        let labels = json!({
            "app.kubernetes.io/name": "valet", "app.kubernetes.io/instance": "valet",
            "valetkey.dev/shard": index.to_string(),
        });
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], labels);
        let template = &deployment["spec"]["template"];
        for (key, value) in labels.as_object().unwrap() {
            assert_eq!(&template["metadata"]["labels"][key], value);
        }
        let args = args(deployment);
        assert!(
            args.contains(&"--shards=3") && args.contains(&format!("--shard={index}").as_str()),
            "{args:?}"
        );
        let spread = &template["spec"]["topologySpreadConstraints"][0];
        assert_eq!(spread["labelSelector"]["matchLabels"], labels);
        assert_eq!(
            all.get("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
            labels
        );
    }
    let rules = all.get("Role", "valet-operator")["rules"].as_array().unwrap();
    let leases: Vec<_> = rules
        .iter()
        .filter_map(|rule| (rule["resources"] == json!(["leases"])).then_some(&rule["resourceNames"]))
        .collect();
    let names = json!(["valet", "valet-shard-0", "valet-shard-1", "valet-shard-2"]);
    assert_eq!(leases, [&Value::Null, &names]);
    // These objects exist once, and select the pods of all shards.
    for (kind, selector) in [
        ("Service", "/spec/selector"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("ServiceMonitor", "/spec/selector/matchLabels"),
    ] {
        let labels = json!({"app.kubernetes.io/name": "valet", "app.kubernetes.io/instance": "valet"});
        assert_eq!(all.get(kind, "valet").pointer(selector), Some(&labels), "{kind}");
    }
}

#[test]
fn pod_labels_do_not_replace_the_label_of_the_shard() {
    let all = objects(&["shards=2", "podLabels.valetkey\\.dev/shard=x", "podLabels.team=keys"]);
    let labels = &all.get("Deployment", "valet-shard-1")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        (&labels["valetkey.dev/shard"], &labels["team"]),
        (&json!("1"), &json!("keys"))
    );
}

#[test]
fn one_shard_renders_no_trace_of_shards() {
    let one = text(&["shards=1"]);
    assert_eq!(one, text(&[]));
    let all = helm::Objects::parse(&one);
    for kind in ["Deployment", "PodDisruptionBudget", "Role", "Service"] {
        for object in all.kind(kind) {
            assert!(!object.to_string().contains("shard"), "{object}");
        }
    }
}

#[test]
fn install_notes_name_the_deployment_of_each_shard() {
    let args = [
        &["install", "valet", CHART, "--dry-run=client"][..],
        &set(&["shards=2"]),
    ]
    .concat();
    let notes = helm::ok(&args);
    assert!(
        notes.contains("2 shards divide the stores among themselves."),
        "{notes}"
    );
    for name in ["valet-shard-0", "valet-shard-1"] {
        assert!(
            notes.contains(&format!("rollout status deployment/{name}\n")),
            "{notes}"
        );
    }
}

#[test]
fn invalid_shards_are_refused() {
    for (value, message) in [
        ("shards=0", "at '/shards': minimum: got 0, want 1"),
        ("shards=17", "at '/shards': maximum: got 17, want 16"),
        ("shards=null", "missing property 'shards'"),
        (
            "extraArgs={--shards=2}",
            "extraArgs contains --shards=2: set shards instead",
        ),
        (
            "extraArgs={--shard=1}",
            "extraArgs contains --shard=1: set shards instead",
        ),
    ] {
        let said = refused(&["template", "valet", CHART, "--set", value]);
        assert!(said.contains(message), "{value}: {said}");
    }
}
