//! Tests of Secrets that have the name of a grant's Secret but do not belong to the grant: Valet never writes to
//! them.

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition};

#[test]
fn foreign_secrets_are_never_changed() {
    let t = Tenant::new("foreign");
    let labels = json!({"app.kubernetes.io/managed-by": "valet"});
    let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
    // The owner must exist. Otherwise the garbage collector deletes the Secrets that the owner references.
    t.apply(&[t.grant("DownloadGrant", "alive", json!({"key": "not/allowed"}))]);
    let alive = t.get("dg/alive").unwrap()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let secret = |name: &str, more: Value| {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": t.name()},
            "type": "Opaque", "stringData": {"url": "theirs"},
        });
        crate::world::merge(&mut secret, more);
        secret
    };
    let secrets = [
        secret("bare", json!({})),
        secret("typed", json!({"type": "valetkey.dev/grant"})),
        secret(
            "labelled",
            json!({"type": "valetkey.dev/grant", "metadata": {"labels": labels}}),
        ),
        secret(
            "untyped",
            json!({"metadata": {"labels": labels, "ownerReferences": owner("DownloadGrant", "alive", &alive)}}),
        ),
        secret(
            "other",
            json!({
                "type": "valetkey.dev/grant",
                "metadata": {"labels": labels, "ownerReferences": owner("DownloadGrant", "alive", &alive)},
            }),
        ),
        secret("fixed", json!({"immutable": true})),
    ];
    t.apply(&secrets);
    let before: Vec<_> = ["bare", "typed", "labelled", "untyped", "other", "fixed"]
        .iter()
        .map(|name| {
            t.get(&format!("secret/{name}"))
                .unwrap_or_else(|| panic!("{name} is there"))
        })
        .collect();
    let mark = t.world.plane.audit_mark().unwrap();
    let _operator = t.operator();
    let names: Vec<_> = before.iter().map(|s| s["metadata"]["name"].as_str().unwrap()).collect();
    let grants: Vec<_> = names
        .iter()
        .map(|name| t.grant("UploadGrant", name, json!({})))
        .collect();
    t.apply(&grants);
    for name in &names {
        let grant = t.reason(&format!("ug/{name}"), "SecretConflict");
        assert_eq!(t.kstatus(&grant), "Failed", "{name}");
        let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("Secret {name} exists and does not belong to this grant")),
            "{message}"
        );
        assert!(
            message.contains("spec.secretName"),
            "the message names the remedy: {message}"
        );
    }
    // When the grants are deleted, the Secrets stay unchanged.
    t.kubectl(&["delete", "ug", "--all"]);
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(
            t.get(&format!("secret/{name}")).as_ref(),
            Some(before),
            "{name} was changed"
        );
    }
    let events = t.world.plane.audit_since(mark).unwrap();
    let writes: Vec<_> = events
        .iter()
        .filter(|e| e.is_write() && e.resource() == "secrets" && e.namespace() == t.name() && e.code() < 300)
        .map(|e| format!("{} {} by {}", e.verb(), e.name(), e.user()))
        .collect();
    assert!(writes.is_empty(), "{writes:?}");
}

/// After the conflicting Secret is deleted, the grant gets its credential without any change to the grant.
#[test]
fn grant_is_issued_after_conflicting_secret_is_deleted() {
    let t = Tenant::new("removed");
    let _operator = t.operator_with(&["--resync-seconds=3"]);
    t.apply(&[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "g", "namespace": t.name()}})]);
    t.apply(&[t.grant("UploadGrant", "g", json!({}))]);
    t.reason("ug/g", "SecretConflict");
    t.kubectl(&["delete", "secret/g"]);
    t.reason("ug/g", "Issued");
}

/// If two grants need the same Secret name, one of them is issued and the condition of the other names the conflict.
#[test]
fn second_grant_with_same_secret_name_is_in_conflict() {
    let t = Tenant::new("twogrants");
    let _operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "one", json!({"secretName": "shared"})),
        t.grant("DownloadGrant", "two", json!({"secretName": "shared"})),
    ]);
    let ready = |what: &str| {
        t.get(what)
            .and_then(|g| condition(&g, "Ready").map(|c| c["reason"].as_str().unwrap().to_owned()))
            .filter(|reason| reason != "Pending")
    };
    let mut reasons = eventually(SOON, "both grants to have a condition", || {
        Some(vec![ready("ug/one")?, ready("dg/two")?])
    });
    reasons.sort();
    assert_eq!(reasons, ["Issued", "SecretConflict"]);
}
