//! Tests of Secrets and statuses that another client changes: Valet trusts only its own signed records, and restores
//! them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

/// Valet checks the record key once a minute.
const RECORD_KEY_IS_CHECKED_WITHIN: Duration = Duration::from_secs(75);

/// Shorter than the resync interval of ten minutes, so a resync cannot be the reason for the correction.
const PROMPT: Duration = Duration::from_secs(30);

/// The URL in a Secret.
fn url(t: &Tenant, name: &str) -> Option<String> {
    let secret = t.get(&format!("secret/{name}"))?;
    t.mounted(&secret).files.get("url").cloned()
}

fn patch_status(t: &Tenant, grant: &str, status: &Value) {
    let patch = json!({"status": status}).to_string();
    t.kubectl(&[
        "patch",
        grant,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ]);
}

/// The grant of a case in tests/cases, in which another client changes the Secret again and again.
pub fn contested_grant(t: &Tenant) -> Value {
    let case = include_str!("../cases/L67-fought-over.yaml");
    let mut grant: Value = serde_yaml::from_str(case).expect("the case is YAML");
    grant["metadata"]["namespace"] = t.name().into();
    grant["spec"]["storeRef"]["name"] = t.name().into();
    grant["spec"]["key"] = t.key(grant["spec"]["key"].as_str().expect("it has a key")).into();
    grant
}

/// Replaces the URL in the Secret as an attacker would. Returns false if there is nothing to replace.
fn edit_data(t: &Tenant, name: &str) -> bool {
    let Some(mut secret) = t.get(&format!("secret/{name}")) else {
        return false;
    };
    let theirs = json!("aHR0cHM6Ly9ldmlsLmV4YW1wbGUv");
    if secret["data"]["url"] == theirs {
        return false;
    }
    secret["data"]["url"] = theirs;
    t.replace(&secret).is_ok()
}

/// If another client changes the data of a Secret, Valet restores the same credential with the same expiry. It does
/// so at once with `--watch-secrets`, and otherwise at the next reconcile.
#[test]
fn edited_secret_data_is_restored_with_the_same_expiry() {
    for (test, arg) in [("edited", "--watch-secrets"), ("edited-resync", "--resync-seconds=2")] {
        let t = Tenant::new(test);
        let _operator = t.operator_with(&[arg]);
        t.apply(&[contested_grant(&t)]);
        let issued = t.reason("dg/fought", "Issued");
        let before = t.mount("fought");
        std::thread::sleep(Duration::from_millis(1500));
        assert!(edit_data(&t, "fought"));
        eventually(PROMPT, "the URL to be restored", || {
            url(&t, "fought").filter(|url| *url == before.files["url"])
        });
        assert_eq!(t.mount("fought").files, before.files);
        let grant = t.reason("dg/fought", "Issued");
        for field in ["issuedTime", "expirationTime", "renewals"] {
            assert_eq!(grant["status"][field], issued["status"][field], "{field}");
        }
    }
}

/// If another client changes the annotations of a Secret to get a longer lifetime, Valet restores the same
/// credential. The credential expires at its original time.
#[test]
fn edited_secret_annotations_do_not_extend_the_credential() {
    let t = Tenant::new("renewed-by-patch");
    let mark = t.mark();
    let _operator = t.operator_with(&["--watch-secrets"]);
    t.apply(&[
        t.grant("DownloadGrant", "down", json!({"expirationSeconds": 12})),
        t.grant("UploadGrant", "up", json!({"expirationSeconds": 12})),
    ]);
    t.reason("dg/down", "Issued");
    t.reason("ug/up", "Issued");
    let (mut urls, until) = (BTreeSet::new(), Instant::now() + Duration::from_secs(25));
    let annotations = json!({
        "valetkey.dev/expiration-seconds": "1", "valetkey.dev/expires-at": "2036-01-01T00:00:00Z",
        "valetkey.dev/signed-with": "another",
    });
    while Instant::now() < until {
        for name in ["down", "up"] {
            urls.extend(url(&t, name));
            if let Some(mut secret) = t.get(&format!("secret/{name}")) {
                crate::world::merge(&mut secret["metadata"]["annotations"], annotations.clone());
                let _ = t.replace(&secret);
            }
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(urls.len(), 2, "one for each grant");
    t.reason("dg/down", "Expired");
    t.reason("ug/up", "ExpiredUnused");
    for grant in ["dg/down", "ug/up"] {
        assert_eq!(t.get(grant).unwrap()["status"]["renewals"], Value::Null, "{grant}");
    }
    let (created, _, deleted) = t.secrets_written(mark);
    assert_eq!((created, deleted), (2, 2));
}

/// If another client writes a later expiry into the status, the credential still expires at its original time and is
/// not issued again.
#[test]
fn forged_expiry_in_status_does_not_extend_the_credential() {
    let t = Tenant::new("forged-end");
    let mark = t.mark();
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "rep", json!({"expirationSeconds": 8}))]);
    t.reason("dg/rep", "Issued");
    let end = "2036-01-01T00:00:00Z";
    let until = Instant::now() + Duration::from_secs(22);
    while Instant::now() < until {
        let forged = json!({"expirationTime": end, "binding": {"name": "rep", "expirationTime": end}});
        patch_status(&t, "dg/rep", &forged);
        std::thread::sleep(Duration::from_secs(1));
    }
    t.reason("dg/rep", "Expired");
    // An empty status does not lead to a new credential either.
    patch_status(&t, "dg/rep", &json!(null));
    let grant = t.reason("dg/rep", "Expired");
    assert!(grant["status"]["renewals"].is_null());
    let (created, replaced, deleted) = t.secrets_written(mark);
    assert_eq!((created, replaced, deleted), (1, 0, 1));
}

/// If another client writes `Completed` into the status, Valet corrects it soon. At its expiry the grant is
/// `ExpiredUnused`.
#[test]
fn forged_completion_is_corrected_and_never_final() {
    let t = Tenant::new("forged-done");
    let _operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "up", json!({"expirationSeconds": 45}))]);
    let grant = t.reason("ug/up", "Issued");
    // Between two scheduled polls, only the forged status can lead to a reconcile.
    t.between_polls(&["up"]);
    let mut conditions = grant["status"]["conditions"].clone();
    for c in conditions.as_array_mut().unwrap() {
        if c["type"] == "Completed" {
            (c["status"], c["reason"], c["message"]) = (json!("True"), json!("Completed"), json!("it is there"));
        }
    }
    let forged = json!({"conditions": conditions, "object": {"size": 3}});
    patch_status(&t, "ug/up", &forged);
    eventually(Duration::from_secs(10), "the forged status to be corrected", || {
        t.get("ug/up")
            .filter(|g| says(g, "Completed") == "False Pending" && g["status"]["object"].is_null())
    });
    patch_status(&t, "ug/up", &forged);
    let grant = t.reason_within("ug/up", "ExpiredUnused", SOON);
    assert_eq!(condition(&grant, "Completed").unwrap()["status"], "False");
}

/// Valet corrects a wrong or empty status without waiting for a timer or a resync, and with one write.
#[test]
fn forged_or_empty_status_is_corrected_promptly() {
    let t = Tenant::new("forged-ready");
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "down", json!({}))]);
    let whole = t.reason("dg/down", "Issued");
    let mut conditions = whole["status"]["conditions"].as_array().unwrap().clone();
    for c in &mut conditions {
        if c["type"] == "Ready" {
            (c["status"], c["reason"], c["message"]) = (json!("False"), json!("KeyNotAllowed"), json!("no"));
        }
    }
    conditions.push(json!({
        "type": "Stalled", "status": "True", "reason": "KeyNotAllowed", "message": "no",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }));
    let mark = t.mark();
    for forged in [json!({"conditions": conditions}), json!(null)] {
        patch_status(&t, "dg/down", &forged);
        let grant = t.reason_within("dg/down", "Issued", PROMPT);
        assert!(condition(&grant, "Stalled").is_none());
        for field in [
            "issuedTime",
            "expirationTime",
            "binding",
            "recordSignature",
            "expirationSeconds",
        ] {
            assert_eq!(grant["status"][field], whole["status"][field], "{field}");
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let writes = t.written(mark);
    let statuses = writes.iter().filter(|e| e.verb() == "patch").count();
    assert_eq!(statuses, 2, "{writes:?}");
}

/// Valet removes other owners of a Secret. With another owner, the Secret and its credential would stay after the
/// grant is deleted.
#[test]
fn other_owners_of_a_secret_are_removed() {
    let t = Tenant::new("owners");
    let _operator = t.operator_with(&["--watch-secrets"]);
    t.apply(&[
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": t.name()}}),
        t.grant("DownloadGrant", "down", json!({})),
    ]);
    t.reason("dg/down", "Issued");
    let before = t.mount("down").files;
    let other = t.get("configmap/other").unwrap();
    let mut secret = t.get("secret/down").unwrap();
    let owners = secret["metadata"]["ownerReferences"].clone();
    secret["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": other["metadata"]["uid"],
        }));
    t.replace(&secret).unwrap();
    let restored = eventually(PROMPT, "the other owner to be removed", || {
        t.get("secret/down")
            .filter(|s| s["metadata"]["ownerReferences"] == owners)
    });
    assert_eq!(t.mounted(&restored).files, before, "nothing else has changed");
    t.kubectl(&["delete", "dg/down"]);
    t.gone("down");
}

/// If another controller deletes or changes the Secret each time Valet restores it, Valet waits longer each time. It
/// sets the condition `SecretContested` and sends one event.
#[test]
fn repeated_secret_changes_are_restored_with_growing_pauses() {
    let delete: fn(&Tenant) -> bool = |t| {
        let is_there = t.get("secret/fought").is_some();
        t.delete("secret/fought");
        is_there
    };
    let edit: fn(&Tenant) -> bool = |t| edit_data(t, "fought");
    for (test, attack) in [("fight-delete", delete), ("fight-edit", edit)] {
        let t = Tenant::new(test);
        let _operator = t.operator_with(&["--watch-secrets"]);
        t.apply(&[contested_grant(&t)]);
        t.reason("dg/fought", "Issued");
        let before = url(&t, "fought");
        let (mut rounds, until) = (0, Instant::now() + Duration::from_secs(20));
        while Instant::now() < until {
            rounds += usize::from(attack(&t));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Valet restores the Secret after 0, 1, 3, 7 and 15 seconds, and once more at the start.
        assert!((4..=7).contains(&rounds), "{test}: {rounds} rounds");
        let grant = eventually(SOON, "the condition SecretContested", || {
            t.get("dg/fought")
                .filter(|g| says(g, "SecretContested") == "True SecretContested")
        });
        let message = condition(&grant, "SecretContested").unwrap()["message"]
            .as_str()
            .unwrap();
        assert!(
            message.contains("times since 20") && !message.contains("evil"),
            "{message}"
        );
        let events: Value = serde_json::from_str(&t.kubectl(&["get", "events", "--output=json"])).unwrap();
        let contested_events: Vec<_> = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["reason"] == "SecretContested")
            .collect();
        assert_eq!(contested_events.len(), 1, "{test}: {contested_events:?}");
        // When the other controller stops, the Secret comes back with the same credential.
        let after = eventually(SOON, "the Secret to be restored", || {
            url(&t, "fought").filter(|url| !url.contains("evil"))
        });
        assert_eq!(Some(after), before, "{test}");
        t.reason("dg/fought", "Issued");
    }
}

/// Valet deletes the Secret of a suspended grant also while other clients change the Secret all the time.
#[test]
fn constantly_changed_secret_of_suspended_grant_is_deleted() {
    let t = Tenant::new("patched");
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "down", json!({}))]);
    t.reason("dg/down", "Issued");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut n = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    n += 1;
                    if let Some(mut secret) = t.get("secret/down") {
                        secret["metadata"]["labels"]["n"] = n.to_string().into();
                        let _ = t.replace(&secret);
                    }
                }
            });
        }
        t.patch("dg/down", &json!({"spec": {"suspend": true}}));
        let suspended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            t.reason("dg/down", "Suspended");
            t.gone("down");
        }));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        suspended.expect("the Secret is deleted");
    });
}

/// If the record key is deleted, Valet restores it and issues nothing. If the record key is replaced, the operator
/// exits, and the next process issues each existing grant once more.
#[test]
fn deleted_record_key_is_restored_and_replaced_one_reissues_grants() {
    let t = Tenant::new("recordkey");
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = t.name().into();
    t.apply(&[credentials]);
    let own = format!("--operator-namespace={}", t.name());
    let operator = t.operator_with(&[&own]);
    t.apply(&[
        t.grant("DownloadGrant", "live", json!({})),
        t.grant("DownloadGrant", "over", json!({"expirationSeconds": 2})),
    ]);
    t.reason("dg/over", "Expired");
    let issued = t.reason("dg/live", "Issued");
    let key = t
        .get("secret/valet-record-key")
        .expect("the operator can create the grant Secret");

    let mark = t.mark();
    t.delete("secret/valet-record-key");
    let again = eventually(RECORD_KEY_IS_CHECKED_WITHIN, "the record key to be restored", || {
        t.get("secret/valet-record-key")
    });
    assert_eq!(again["data"], key["data"]);
    assert_eq!(
        t.secrets_written(mark),
        (1, 0, 1),
        "only the Secret with the record key was written"
    );

    let mut other = again;
    other["data"]["key"] = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=".into();
    t.replace(&other).unwrap();
    eventually(RECORD_KEY_IS_CHECKED_WITHIN, "the operator to exit", || {
        (!operator.process().is_running()).then_some(())
    });
    let log = operator.log_text();
    assert!(
        log.contains("no longer contains the record key with which this process started") && !log.contains("QUFB"),
        "{log}"
    );
    let mark = t.mark();
    let _next = t.operator_with(&[&own]);
    let next = eventually(SOON, "the grant to be issued with the new record key", || {
        t.get("dg/live").filter(|grant| {
            says(grant, "Ready") == "True Issued"
                && grant["status"]["recordSignature"] != issued["status"]["recordSignature"]
        })
    });
    assert!(next["status"]["issuedTime"].as_str() >= issued["status"]["issuedTime"].as_str());
    t.reason("dg/live", "Issued");
    std::thread::sleep(Duration::from_secs(5));
    t.reason("dg/over", "Expired");
    // The Secret of the live grant is replaced. The Secret of the expired grant is created again and deleted at its
    // expiry.
    assert_eq!(t.secrets_written(mark), (1, 1, 1));
}
