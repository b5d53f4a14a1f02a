//! Tests of the CEL rules without an API server, as `valet sign` and the operator run them.

mod bounds;

use valet_test_support::fixtures;
use valet_test_support::rules;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::Validator;
use serde::de::DeserializeOwned;
use serde_json::Value;
use valet::api::{ClusterObjectStore, DownloadGrant, Grant, ObjectStore, Store, UploadGrant, crds};

use fixtures::Table;

/// The CEL messages for an object, or for its update.
fn says(kind: &str, object: &Value, updated: Option<&Value>) -> String {
    let crd = crds()
        .into_iter()
        .find(|c| c.spec.names.kind == kind)
        .unwrap_or_else(|| panic!("there is no kind {kind}"));
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .and_then(|s| s.open_api_v3_schema.clone());
    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    let (new, old) = updated.map_or((object, None), |new| (new, Some(object)));
    let result = Validator::new().validate(&schema, new, old);
    let said = result.err().map(|e| e.to_string()).unwrap_or_default();
    if updated.is_none() {
        // The program's own check gives the same messages for every object that it can parse.
        match kind {
            "UploadGrant" => agrees::<UploadGrant>(object, &said, UploadGrant::check),
            "DownloadGrant" => agrees::<DownloadGrant>(object, &said, DownloadGrant::check),
            "ObjectStore" => agrees::<ObjectStore>(object, &said, ObjectStore::check),
            _ => agrees::<ClusterObjectStore>(object, &said, ClusterObjectStore::check),
        }
    }
    said
}

fn agrees<T: DeserializeOwned>(object: &Value, said: &str, check: fn(&T) -> Result<(), Vec<String>>) {
    match serde_json::from_value::<T>(object.clone()) {
        Ok(typed) => assert_eq!(check(&typed).is_ok(), said.is_empty(), "{object}: {said}"),
        Err(e) => assert!(
            !said.is_empty(),
            "{object} cannot be parsed, and no rule has a message for it: {e}"
        ),
    }
}

#[test]
fn each_cel_rule_rejects_with_the_expected_message() {
    let mut failures = Vec::new();
    for case in Table::read().cases("web") {
        let said = says(&case.kind, &case.object, case.updated.as_ref());
        match &case.message {
            Some(message) if !said.contains(message) => {
                failures.push(format!("{}: wanted '{message}', got '{said}'", case.name))
            }
            None if !said.is_empty() => failures.push(format!("{}: refused: {said}", case.name)),
            _ => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every CEL rule has a row in the table, so no rule is untested.
#[test]
fn each_cel_rule_has_a_test_case() {
    let mut not_probed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for crd in crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("a schema is JSON");
        rules::messages(&schema, not_probed.entry(crd.spec.names.kind).or_default());
    }
    assert!(
        not_probed.values().map(BTreeSet::len).sum::<usize>() > 50,
        "the rules were found"
    );
    for case in Table::read().cases("web") {
        if let Some(message) = &case.message {
            not_probed
                .get_mut(&case.kind)
                .expect("a kind")
                .retain(|rule| !rule.starts_with(message.as_str()));
        }
    }
    not_probed.retain(|_, rules| !rules.is_empty());
    assert!(not_probed.is_empty(), "no row of rules.yaml tests: {not_probed:#?}");
}
