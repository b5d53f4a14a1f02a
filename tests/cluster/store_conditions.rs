//! Tests that the log and the events show the results of probing a store, and which grants were refused.

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, says};

/// The events about the store `own`, as type, reason and note.
fn events(t: &Tenant) -> Vec<(String, String, String)> {
    let text = t.kubectl(&["get", "events.events.k8s.io", "--output", "json"]);
    let events: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|e| e["regarding"]["kind"] == "ObjectStore" && e["regarding"]["name"] == "own")
        .map(|e| (word(&e["type"]), word(&e["reason"]), word(&e["note"])))
        .collect()
}

#[test]
fn changed_store_condition_is_an_event_and_a_log_line() {
    let t = Tenant::new("verdicts");
    let operator = t.operator_with(&["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"]);
    let credentials = |secret: &str| {
        let mut object = t.credentials(t.world.s3.access_key(), secret);
        object["metadata"]["namespace"] = json!(t.name());
        object
    };
    let mut own = t.store();
    own["kind"] = json!("ObjectStore");
    own["metadata"] = json!({"name": "own", "namespace": t.name()});
    own["spec"].as_object_mut().unwrap().remove("access");
    t.apply(&[credentials("not-the-secret"), own]);
    let seen = |type_: &str, reason: &str, note: &str| {
        eventually(2 * SOON, &format!("an event {reason}"), || {
            let found = |(t, r, n): &(String, String, String)| t == type_ && r == reason && n.starts_with(note);
            events(&t).iter().any(found).then_some(())
        });
        eventually(SOON, &format!("a line about {reason}"), || {
            let log = operator.log_text();
            let about = |line: &&str| {
                line.contains("a condition of the store changed") && line.contains("\"own\"") && line.contains(reason)
            };
            log.lines()
                .find(about)
                .map(|line| assert!(line.contains("\"INFO\""), "{line}"))
        });
    };
    seen("Warning", "CredentialsRefused", "Ready is False: ");
    t.apply(&[credentials(t.world.s3.secret_key())]);
    seen("Normal", "Ready", "Ready is True: ");
    seen("Normal", "HeadersRefused", "UnsignedHeadersRefused is True: ");
    // The same command as in docs/reference/stores.md.
    let print = |path: &str| {
        let path = format!("jsonpath={path}");
        t.kubectl(&["get", "ostore", "own", "--output", &path])
    };
    assert_eq!(
        print(r#"{range .status.conditions[*]}{.type}={.status} {.reason}{"\n"}{end}"#),
        "Ready=True Ready\nUnsignedHeadersRefused=True HeadersRefused\nClockInSync=True Ready\n"
    );
    let capabilities = print(r#"{range .status.capabilities[*]}{@}{"\n"}{end}"#);
    assert!(
        capabilities.starts_with("ContentType\nContentLength\nChecksumSHA256\n"),
        "{capabilities}"
    );
    let count = || events(&t).len();
    let before = count();

    t.apply(&[t.grant("UploadGrant", "refused", json!({"key": "not/allowed"}))]);
    let grant = t.reason("ug/refused", "KeyNotAllowed");
    assert_eq!(says(&grant, "Ready"), "False KeyNotAllowed");
    eventually(SOON, "a line about the refusal", || {
        let log = operator.log_text();
        let about = |line: &&str| line.contains("grant refused") && line.contains("KeyNotAllowed");
        log.lines().find(about).map(|line| {
            assert!(
                line.contains("\"INFO\"") && line.contains("\"refused\"") && !line.contains("http"),
                "{line}"
            );
        })
    });
    // A store whose conditions do not change gets no events.
    let store = t.get("ostore/own").expect("it is there");
    assert_eq!(says(&store, "Ready"), "True Ready");
    assert_eq!(count(), before);
}
