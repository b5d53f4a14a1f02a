//! Tests of the grant Secret: what happens when the Secret, its grant or the grant's spec changes, or when the Secret
//! cannot be written.

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

/// If the Secret is deleted, Valet restores the same credential with the same expiry. It does so at once with
/// `--watch-secrets`, and otherwise at the next resync.
#[test]
fn deleted_secret_is_restored_with_the_same_credential() {
    comes_back("recreate", "--watch-secrets");
    comes_back("resync", "--resync-seconds=2");
}

fn comes_back(test: &str, arg: &str) {
    let t = Tenant::new(test);
    let mark = t.world.plane.audit_mark().unwrap();
    let _operator = t.operator_with(&[arg]);
    t.apply(&[t.grant("DownloadGrant", "again", json!({}))]);
    t.reason("dg/again", "Issued");
    let before = t.mount("again");
    let uid = t.get("secret/again").unwrap()["metadata"]["uid"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    t.kubectl(&["delete", "secret/again"]);
    eventually(SOON, "another Secret", || {
        t.get("secret/again").filter(|s| s["metadata"]["uid"] != uid)
    });
    let after = t.mount("again");
    assert_eq!(before.files, after.files);
    assert_eq!(says(&t.get("dg/again").unwrap(), "Ready"), "True Issued");
    let events = t.world.plane.audit_since(mark).unwrap();
    let lists = events
        .iter()
        .filter(|e| e.user() == valet_harness::control_plane::OPERATOR && e.resource() == "secrets")
        .filter(|e| e.namespace() == t.name() && matches!(e.verb(), "list" | "watch"))
        .count();
    assert_eq!(
        lists > 0,
        arg == "--watch-secrets",
        "an operator without permission to watch Secrets does not watch them"
    );
}

/// A change of `expirationSeconds` leads to a new credential. A change of `secretTemplate` does not.
#[test]
fn changed_expiration_reissues_and_changed_template_does_not() {
    let t = Tenant::new("changes");
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "g", json!({"expirationSeconds": 600}))]);
    t.reason("dg/g", "Issued");
    let first = t.mount("g");
    // A label that another client sets stays through all changes.
    t.kubectl(&["label", "secret/g", "their=own"]);
    let patch = |spec: Value| {
        t.patch("dg/g", &json!({"spec": spec}));
        let generation = t.get("dg/g").unwrap()["metadata"]["generation"].clone();
        eventually(SOON, "the change to be reconciled", || {
            t.get("dg/g")
                .filter(|g| g["status"]["observedGeneration"] == generation)
        })
    };
    patch(
        json!({"secretTemplate": {"labels": {"team": "web"}, "annotations": {"app.kubernetes.io/part-of": "them"}}}),
    );
    let secret = t.get("secret/g").unwrap();
    assert_eq!(secret["metadata"]["labels"]["team"], "web");
    assert_eq!(secret["metadata"]["labels"]["their"], "own");
    assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "valet");
    assert_eq!(secret["metadata"]["annotations"]["app.kubernetes.io/part-of"], "them");
    assert_eq!(secret["metadata"]["annotations"]["valetkey.dev/grant-generation"], "2");
    assert_eq!(t.mount("g").files, first.files, "the credential is the same");

    let grant = patch(json!({"expirationSeconds": 900}));
    let second = t.mount("g");
    assert_ne!(second.files["url"], first.files["url"]);
    assert_eq!(second.files["expiry"], grant["status"]["expirationTime"]);
    assert!(second.files["url"].contains("X-Amz-Expires=900"));
    assert_eq!(
        t.get("secret/g").unwrap()["metadata"]["annotations"]["valetkey.dev/grant-generation"],
        "3"
    );

    // A field that concerns neither the credential nor the Secret's metadata does not change the Secret.
    patch(json!({"ttlSecondsAfterFinished": 60}));
    assert_eq!(t.mount("g").files, second.files);
}

#[test]
fn deleting_the_grant_deletes_the_secret() {
    let t = Tenant::new("deleting");
    let _operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "g", json!({}))]);
    t.reason("ug/g", "Issued");
    t.kubectl(&["delete", "ug/g"]);
    t.gone("g");
    // A new grant with the same name gets its own credential, even if the old Secret still exists.
    t.apply(&[t.grant("UploadGrant", "g", json!({}))]);
    t.reason("ug/g", "Issued");
    t.kubectl(&["delete", "ug/g", "--wait=true"]);
    t.apply(&[t.grant("UploadGrant", "g", json!({}))]);
    let grant = t.reason("ug/g", "Issued");
    let secret = t.get("secret/g").unwrap();
    assert_eq!(
        secret["metadata"]["annotations"]["valetkey.dev/grant-uid"],
        grant["metadata"]["uid"]
    );
}

/// A grant can have the longest name that Kubernetes allows, and `secretName` sets another name for the Secret.
#[test]
fn longest_grant_name_and_custom_secret_name_are_accepted() {
    let t = Tenant::new("names");
    let _operator = t.operator();
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    assert_eq!(long.len(), 253);
    t.apply(&[
        t.grant("DownloadGrant", &long, json!({"key": t.key("x")})),
        t.grant("UploadGrant", "up", json!({"secretName": "chosen.name"})),
    ]);
    t.reason(&format!("dg/{long}"), "Issued");
    t.reason("ug/up", "Issued");
    assert!(t.get(&format!("secret/{long}")).is_some());
    assert!(t.get("secret/chosen.name").is_some());
    assert!(t.get("secret/up").is_none());
}

/// If a ResourceQuota or an admission webhook rejects the Secret, the condition reports it. The grant is issued when
/// the cause is removed.
#[test]
fn rejected_secret_is_reported_until_the_cause_is_removed() {
    let t = Tenant::new("quota");
    let _operator = t.operator();
    t.apply(&[json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": t.name()},
        "spec": {"hard": {"count/secrets": "0"}},
    })]);
    // The quota takes effect after its controller has counted the Secrets.
    eventually(SOON, "the ResourceQuota to count the Secrets", || {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe", "namespace": t.name()}});
        match t.world.plane.kubectl_in(&secret.to_string(), &["create", "-f", "-"]) {
            Ok(_) => {
                t.kubectl(&["delete", "secret/probe"]);
                None
            }
            Err(_) => Some(()),
        }
    });
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    let grant = t.reason("dg/g", "SecretNotWritable");
    assert_eq!(t.kstatus(&grant), "InProgress");
    let message = condition(&grant, "Ready").unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("quota"), "{message}");
    t.kubectl(&["delete", "resourcequota/none"]);
    t.reason_within("dg/g", "Issued", std::time::Duration::from_secs(90));
}
