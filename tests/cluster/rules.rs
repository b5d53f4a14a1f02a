//! Tests of the validation rules in the CRDs: what the apiserver rejects, and the messages that kubectl shows.

use serde_json::json;

use crate::{fixtures::Table, world::Tenant};

#[test]
fn apiserver_rejects_with_the_message_of_each_rule() {
    let t = Tenant::new("rules");
    let mut failures = Vec::new();
    for case in Table::read().cases(t.name()) {
        let result = match (&case.updated, t.create(&case.object)) {
            (Some(updated), Ok(_)) => t.replace(updated),
            (Some(_), Err(e)) => {
                failures.push(format!("{}: the object to update was turned down: {e}", case.name));
                continue;
            }
            (None, created) => created,
        };
        let said = result.as_ref().err().cloned().unwrap_or_default();
        match &case.message {
            Some(message) if !said.contains(message) => {
                failures.push(format!("{}: wanted '{message}', got '{said}'", case.name))
            }
            None if result.is_err() => failures.push(format!("{}: turned down: {said}", case.name)),
            _ => {}
        }
        let name = case.object["metadata"]["name"].as_str().expect("it has a name");
        t.delete(&format!("{}/{name}", case.kind));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The schema rejects wrong types, numbers out of range, unknown enum values and unknown fields.
#[test]
fn schema_violation_is_rejected_with_its_field() {
    let t = Tenant::new("schema");
    let rows = [
        (json!({"expirationSeconds": 0}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": 604_801}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": "1h"}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": 1.5}), "spec.expirationSeconds"),
        (json!({"ttlSecondsAfterFinished": -2}), "spec.ttlSecondsAfterFinished"),
        (json!({"storeRef": {"kind": "Bucket"}}), "spec.storeRef.kind"),
        (json!({"storeRef": {"name": ""}}), "spec.storeRef.name"),
        (json!({"key": ""}), "spec.key"),
        (json!({"key": "a".repeat(1025)}), "spec.key"),
        (
            json!({"constraints": {"contentLength": -1}}),
            "spec.constraints.contentLength",
        ),
        (
            json!({"constraints": {"overwrite": "Maybe"}}),
            "spec.constraints.overwrite",
        ),
        (
            json!({"constraints": {"contentLengthRange": {"min": 1}}}),
            "spec.constraints.contentLengthRange.max",
        ),
        (json!({"secretName": "a".repeat(254)}), "spec.secretName"),
        (
            json!({"expirationSecond": 5}),
            "unknown field \"spec.expirationSecond\"",
        ),
        (
            json!({"storeRef": {"namespace": "other"}}),
            "unknown field \"spec.storeRef.namespace\"",
        ),
    ];
    for (spec, field) in rows {
        let grant = t.grant("UploadGrant", "g", spec.clone());
        let said = t
            .world
            .plane
            .kubectl_in(&grant.to_string(), &["create", "--dry-run=server", "-f", "-"]);
        let said = said.expect_err(&format!("{spec} was taken")).to_string();
        assert!(said.contains(field), "{spec}: {said}");
    }
}
