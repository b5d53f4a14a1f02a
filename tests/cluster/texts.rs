//! Tests of the texts that users read: kubectl columns, field descriptions and command line help.

use serde_json::json;

use crate::world::{Tenant, VALET};

#[test]
fn kubectl_columns_fit_80_characters() {
    let t = Tenant::new("columns");
    let _operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "quarterly-report-42", json!({})),
        t.grant("DownloadGrant", "quarterly-report-43", json!({})),
        t.grant(
            "UploadGrant",
            "long",
            json!({"key": "x", "constraints": {"contentLength": 1}}),
        ),
        t.grant("DownloadGrant", "over", json!({"expirationSeconds": 2})),
    ]);
    t.reason("ug/quarterly-report-42", "Issued");
    t.reason("ug/long", "KeyNotAllowed");
    // Only this test's ClusterObjectStore is listed, because the stores of other tests can have longer names.
    for what in [&["ug"][..], &["dg"], &["costore", t.name()]] {
        let table = t.kubectl(&[&["get"], what].concat());
        let width = table.lines().map(|l| l.trim_end().len()).max().unwrap_or(0);
        assert!(width <= 80, "{width} columns:\n{table}");
    }
    let table = t.kubectl(&["get", "ug"]);
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "READY", "STATUS", "EXPIRES", "AGE"]);
    // The column EXPIRES is empty for a grant without a credential, although copies of an old credential may still
    // work.
    t.reason("dg/over", "Expired");
    let cells = |grant: &str| {
        let row = t.kubectl(&["get", grant, "--no-headers"]);
        row.split_whitespace().count()
    };
    assert_eq!(cells("ug/quarterly-report-42"), 5);
    assert_eq!((cells("ug/long"), cells("dg/over")), (4, 4));
    assert!(t.get("dg/over").unwrap()["status"]["expirationTime"].is_string());
    assert!(
        t.kubectl(&["get", "valet"])
            .contains("downloadgrant.valetkey.dev/quarterly-report-43")
    );
}

/// The column Bucket shows the bucket or the container, whichever name the provider uses.
#[test]
fn bucket_column_is_filled_for_every_provider() {
    let t = Tenant::new("providers");
    let store = |name: &str, place: serde_json::Value| {
        let mut store = t.store();
        store["metadata"]["name"] = json!(format!("{}-{name}", t.name()));
        store["spec"] = place;
        store
    };
    t.apply(&[
        store(
            "azure",
            json!({"azureBlob": {"account": "mediastore", "container": "in-azure", "endpoint": "http://127.0.0.1:9"}}),
        ),
        store("gcs", json!({"gcs": {"bucket": "in-google", "endpoint": "http://127.0.0.1:9"}})),
    ]);
    let table = t.kubectl(&["get", "costore", "--output", "wide"]);
    for (name, bucket) in [("", t.name()), ("-azure", "in-azure"), ("-gcs", "in-google")] {
        let name = format!("{}{name}", t.name());
        let row = table
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name.as_str()));
        let row = row.unwrap_or_else(|| panic!("{name} is not in\n{table}"));
        assert!(
            row.contains(&format!("  {bucket}  ")) && row.contains("http://127.0.0.1:"),
            "{row}"
        );
    }
}

/// Every field of the CRDs has a description.
#[test]
fn every_crd_field_has_a_description() {
    let t = Tenant::new("explain");
    for kind in ["uploadgrant", "downloadgrant", "objectstore", "clusterobjectstore"] {
        let crd = t
            .world
            .plane
            .kubectl_json(&["get", "crd", &format!("{kind}s.valetkey.dev"), "--output", "json"])
            .unwrap();
        let mut silent = Vec::new();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(&schema["properties"][part], part, &mut silent);
        }
        assert!(silent.is_empty(), "{kind}: the fields {silent:?} have no description");
        let text = t.kubectl(&["explain", &format!("{kind}.spec")]);
        assert!(text.contains("DESCRIPTION"), "{text}");
    }
}

fn walk(schema: &serde_json::Value, path: &str, silent: &mut Vec<String>) {
    if schema["description"].as_str().is_none_or(str::is_empty) {
        silent.push(path.to_owned());
    }
    // For a field in a list, `kubectl explain` shows only four enum values. The first sentence must therefore name
    // all values of longer enums.
    let values: Vec<_> = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str())
        .collect();
    if values.len() > 4 {
        let description = schema["description"].as_str().unwrap_or_default();
        for value in values
            .iter()
            .filter(|v| !description.split(". ").next().unwrap_or_default().contains(**v))
        {
            silent.push(format!("{path}: the first sentence does not name {value}, and {path}"));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), silent);
    }
    if let Some(items) = schema.get("items").filter(|i| i["type"] == "object") {
        walk(items, &format!("{path}[]"), silent);
    }
}

/// Every flag of the operator has a description and an environment variable, and an invalid value is named in the
/// error.
#[test]
fn every_flag_has_a_description_and_an_environment_variable() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(VALET.as_path())
            .args(args)
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, help, _) = run(&["controller", "--help"]);
    assert_eq!(code, Some(0));
    let flags: Vec<_> = help.lines().map(str::trim).filter(|l| l.starts_with("--")).collect();
    assert!(flags.len() >= 10, "{help}");
    let variables = help.matches("[env: VALET_").count();
    assert_eq!(
        variables,
        flags.iter().filter(|f| !f.starts_with("--help")).count(),
        "{help}"
    );
    for (args, expected) in [
        (
            &["controller", "--ttl-seconds-after-finished=soon"][..],
            "the word never",
        ),
        (
            &["controller", "--kubeconfig=/nonexistent"],
            "--kubeconfig /nonexistent",
        ),
        (&["controller", "--log-level=valet=loud"], "--log-level"),
        (&["sign", "-f", "/nonexistent.yaml"], "/nonexistent.yaml: No such file"),
    ] {
        let (code, _, said) = run(args);
        assert!(code != Some(0) && said.contains(expected), "{args:?}: {said}");
    }
}

/// The committed CRDs are equal to the output of `valet crds`.
#[test]
fn crds_are_up_to_date() {
    let printed = valet_harness::operator::crds(&VALET).expect("valet crds runs");
    let committed =
        std::fs::read_to_string(concat!(env!("VALET_ROOT"), "/crds/valet.yaml")).expect("it is committed");
    assert!(
        committed == printed,
        "crds/valet.yaml is not up to date; run: make generate"
    );
}
