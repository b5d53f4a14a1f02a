//! Tests of the bounds of the CRD fields, without an API server.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use valet::api::{ClusterObjectStore, DownloadGrant, Grant, ObjectStore, Store, UploadGrant, crds};

/// Each number, length and count is tried with a value just outside each of its bounds. The message must name the
/// field.
#[test]
fn value_outside_a_bound_is_rejected_with_its_field() {
    let full: BTreeMap<String, Value> = {
        let mut text: serde_yaml::Value =
            serde_yaml::from_str(include_str!("../fixtures/full.yaml")).expect("full.yaml is YAML");
        text.apply_merge().expect("its merges merge");
        serde_yaml::from_value(text).expect("full.yaml has a spec a kind")
    };
    let mut tried = 0;
    for crd in crds() {
        let kind = crd.spec.names.kind;
        let spec = &full[&kind];
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("a schema is JSON");
        let schema = &schema["openAPIV3Schema"]["properties"]["spec"];
        let said = refusals(&kind, spec);
        assert!(
            !said.contains("allowed is"),
            "{kind}: full.yaml is out of bounds: {said}"
        );
        let mut beyond = Vec::new();
        walk(schema, Some(spec), String::new(), "spec".into(), &mut beyond);
        for (pointer, path, value) in beyond {
            let mut object = spec.clone();
            *object
                .pointer_mut(&pointer)
                .unwrap_or_else(|| panic!("{kind}: full.yaml does not set {path}, which has a bound")) = value;
            let said = refusals(&kind, &object);
            // A time that is too long cannot be parsed, which gives another message.
            let is_unreadable = path == "spec.deadlineTime" && said.starts_with("unreadable");
            let is_named = said
                .split("; ")
                .any(|s| s.starts_with(&format!("{path}: ")) && s.contains("allowed is"));
            assert!(is_named || is_unreadable, "{kind} {path}: {said}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

/// The messages of the program for an object with this spec.
fn refusals(kind: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": {"name": "x", "namespace": "web"}, "spec": spec,
    });
    fn of<T: DeserializeOwned>(object: Value, check: fn(&T) -> Result<(), Vec<String>>) -> String {
        match serde_json::from_value(object) {
            Ok(typed) => check(&typed).err().unwrap_or_default().join("; "),
            Err(e) => format!("unreadable: {e}"),
        }
    }
    match kind {
        "UploadGrant" => of(object, UploadGrant::check),
        "DownloadGrant" => of(object, DownloadGrant::check),
        "ObjectStore" => of(object, ObjectStore::check),
        _ => of(object, ClusterObjectStore::check),
    }
}

/// Collects every bound below this schema: the JSON pointer, the name of the field, and a value outside the bound.
fn walk(
    schema: &Value,
    value: Option<&Value>,
    pointer: String,
    path: String,
    beyond: &mut Vec<(String, String, Value)>,
) {
    let mut put = |value: Value| beyond.push((pointer.clone(), path.clone(), value));
    let count = |name: &str| schema[name].as_u64().and_then(|n| usize::try_from(n).ok());
    if let Some(least) = schema["minimum"].as_f64() {
        put(json!(least as i64 - 1));
    }
    if let Some(most) = schema["maximum"].as_f64() {
        put(json!(most as i64 + 1));
    }
    if let Some(least) = count("minLength") {
        put(json!("é".repeat(least - 1)));
    }
    if let Some(most) = count("maxLength") {
        put(json!("é".repeat(most + 1)));
    }
    let first = || value.and_then(|v| v.get(0)).cloned().unwrap_or_default();
    if let Some(least) = count("minItems") {
        put(json!(vec![first(); least - 1]));
    }
    if let Some(most) = count("maxItems") {
        put(json!(vec![first(); most + 1]));
    }
    if let Some(most) = count("maxProperties") {
        let entries: BTreeMap<_, _> = (0..=most).map(|n| (format!("k{n}"), "v")).collect();
        put(json!(entries));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let value = value.and_then(|v| v.get(name));
        walk(
            schema,
            value,
            format!("{pointer}/{name}"),
            format!("{path}.{name}"),
            beyond,
        );
    }
    if schema["items"].is_object() {
        walk(
            &schema["items"],
            value.and_then(|v| v.get(0)),
            format!("{pointer}/0"),
            format!("{path}[0]"),
            beyond,
        );
    }
    if schema["additionalProperties"].is_object() {
        for (name, value) in value.and_then(Value::as_object).into_iter().flatten() {
            let schema = &schema["additionalProperties"];
            walk(
                schema,
                Some(value),
                format!("{pointer}/{name}"),
                format!("{path}.{name}"),
                beyond,
            );
        }
    }
}

/// Every string in a status has a maximum length.
#[test]
fn every_string_of_a_status_has_a_maximum_length() {
    fn unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
        let is_time = schema["format"] == "date-time";
        if schema["type"] == "string" && schema["maxLength"].is_null() && !is_time && schema["enum"].is_null() {
            found.push(path.to_owned());
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(field, &format!("{path}.{name}"), found);
        }
        if schema["items"].is_object() {
            unbounded(&schema["items"], &format!("{path}[]"), found);
        }
    }
    for crd in crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("a schema is JSON");
        let status = &schema["openAPIV3Schema"]["properties"]["status"];
        assert!(status["properties"]["conditions"].is_object(), "{schema}");
        let mut found = Vec::new();
        unbounded(status, &format!("{}.status", crd.spec.names.kind), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
