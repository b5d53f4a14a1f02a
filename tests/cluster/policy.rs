//! Tests of access rules and credentials: which grants a store allows, and what happens to issued credentials when a
//! rule or the credentials change.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

/// If an access rule is narrowed, Valet deletes the Secrets of the grants that the rule no longer allows.
#[test]
fn narrowed_rule_deletes_secrets_of_refused_grants() {
    let t = Tenant::new("narrowed");
    let _operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "g", json!({"expirationSeconds": 1800})),
        t.grant("UploadGrant", "u", json!({"expirationSeconds": 60})),
    ]);
    t.reason("dg/g", "Issued");
    t.reason("ug/u", "Issued");
    let first = t.mount("g");
    let mut store = t.store();
    store["spec"]["access"][0]["maxExpirationSeconds"] = json!(600);
    t.apply(&[store]);
    let grant = t.reason("dg/g", "ExpirationTooLong");
    assert!(t.get("secret/g").is_none());
    assert_eq!(says(&grant, "Active"), "False ExpirationTooLong");
    assert_eq!(
        says(&t.get("ug/u").unwrap(), "Ready"),
        "True Issued",
        "the other grant is still allowed"
    );
    // The rule allows the grant again before its expiry, so the grant gets the same credential.
    t.apply(&[t.store()]);
    t.reason("dg/g", "Issued");
    assert_eq!(t.mount("g").files, first.files);
    // A deleted store allows nothing.
    t.kubectl(&["delete", "costore", t.name()]);
    t.reason("dg/g", "StoreNotFound");
    assert!(t.get("secret/g").is_none());
}

/// Valet deletes the Secrets of grants that are no longer allowed, even if the store's credentials are missing.
/// Missing credentials alone do not lead to a deletion.
#[test]
fn narrowed_rule_deletes_secrets_even_if_store_is_unusable() {
    let t = Tenant::new("narrowed");
    let _operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "d", json!({})),
        t.grant("UploadGrant", "u", json!({})),
    ]);
    t.reason("dg/d", "Issued");
    t.reason("ug/u", "Issued");
    t.world
        .plane
        .kubectl(&["delete", "secret", t.name(), "--namespace", "valet-system"])
        .unwrap();
    let mut store = t.store();
    store["spec"]["access"][0]["operations"] = json!(["Upload"]);
    t.apply(&[store]);
    let grant = t.reason("dg/d", "OperationNotAllowed");
    assert!(t.get("secret/d").is_none());
    assert_eq!(says(&grant, "Active"), "False OperationNotAllowed");
    t.reason(&format!("costore/{}", t.name()), "CredentialsNotFound");
    assert_eq!(says(&t.get("ug/u").unwrap(), "Ready"), "True Issued");
    assert!(t.get("secret/u").is_some());
}

/// If a rule with many grants is narrowed, Valet makes one delete and one status write for each grant, and signs
/// nothing. `make bench` measures how long this takes; docs/reference/access-rules.md states the limit.
#[test]
fn narrowed_rule_deletes_all_secrets_with_few_writes() {
    const KEYS: usize = 200;
    let t = Tenant::new("bound");
    // The operator runs with its default resync interval of ten minutes, so a resync does not help it in this test.
    let _operator = t.operator();
    let grants: Vec<_> = (0..KEYS)
        .map(|n| t.grant("DownloadGrant", &format!("g{n}"), json!({"expirationSeconds": 1800})))
        .collect();
    t.apply(&grants);
    // A longer timeout, because there are many grants and the machine may be busy with other tests.
    let many = 4 * SOON;
    let secrets = || t.kubectl(&["get", "secrets", "--output=name"]).lines().count();
    eventually(many, "all credentials to be issued", || {
        (secrets() == KEYS).then_some(())
    });
    let statuses = || {
        let reasons = t.kubectl(&[
            "get",
            "dg",
            "--output=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].reason}",
        ]);
        reasons
            .split_whitespace()
            .filter(|reason| *reason == "ExpirationTooLong")
            .count()
    };
    let mark = t.mark();
    let mut store = t.store();
    store["spec"]["access"][0]["maxExpirationSeconds"] = json!(600);
    t.apply(&[store]);
    eventually(many, "all Secrets to be deleted", || (secrets() == 0).then_some(()));
    eventually(many, "all grants to report the reason", || {
        (statuses() == KEYS).then_some(())
    });
    let writes = || {
        let mut writes: BTreeMap<_, usize> = BTreeMap::new();
        for event in t.written(mark).iter().filter(|e| e.resource() != "events") {
            *writes
                .entry(format!("{} {} {}", event.verb(), event.resource(), event.code()))
                .or_default() += 1;
        }
        writes
    };
    // The audit log can be a moment late.
    eventually(SOON, "the audit log", || {
        (writes().values().sum::<usize>() >= 2 * KEYS).then_some(())
    });
    let expected = ["delete secrets 200", "patch downloadgrants 200"].map(|write| (write.to_owned(), KEYS));
    assert_eq!(
        writes(),
        expected.into(),
        "one delete and one status write for each grant"
    );
}

/// An ObjectStore works for grants in its own namespace, with credentials from that namespace.
#[test]
fn object_store_serves_grants_of_its_own_namespace() {
    let t = Tenant::new("namespaced");
    let _operator = t.operator_with(&[
        "--allow-private-endpoints=10.0.0.0/8,127.0.0.0/8",
        "--tenant-store-requests=All",
    ]);
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"] = json!({"name": "keys", "namespace": t.name()});
    let mut store = t.store();
    store["kind"] = json!("ObjectStore");
    store["metadata"] = json!({"name": "own", "namespace": t.name()});
    store["spec"]["s3"]["credentials"]["secretRef"]["name"] = json!("keys");
    store["spec"].as_object_mut().unwrap().remove("access");
    t.apply(&[credentials, store.clone()]);
    let anything =
        json!({"storeRef": {"kind": "ObjectStore", "name": "own"}, "key": "any/where", "expirationSeconds": 604_800});
    t.apply(&[t.grant("UploadGrant", "g", anything)]);
    t.reason("ug/g", "Issued");
    assert_eq!(t.mount("g").upload(&t.file("f", b"x")).0, 200);
    assert_eq!(t.stored("any/where").as_deref(), Some(&b"x"[..]));
    let ready = eventually(SOON, "the store's status", || {
        t.get("ostore/own").filter(|s| says(s, "Ready") != "Unknown Pending")
    });
    assert_eq!(says(&ready, "Ready"), "True Ready");
    assert_eq!(t.kstatus(&ready), "Current");
    assert!(
        ready["status"]["capabilities"]
            .as_array()
            .unwrap()
            .contains(&json!("WriteOnce"))
    );

    // An ObjectStore without credentials must not use the operator's credentials.
    store["metadata"]["name"] = json!("bare");
    store["spec"]["s3"].as_object_mut().unwrap().remove("credentials");
    t.apply(&[
        store,
        t.grant(
            "UploadGrant",
            "h",
            json!({"storeRef": {"kind": "ObjectStore", "name": "bare"}}),
        ),
    ]);
    let grant = t.reason("ug/h", "CredentialsInvalid");
    let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("spec.s3.credentials.secretRef"), "{message}");
}

/// A tenant's store must not direct the operator to an internal address. The operator opens no connection to it.
#[test]
fn tenant_store_with_internal_endpoint_is_refused() {
    let t = Tenant::new("inwards");
    let _operator = t.operator();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut credentials = t.credentials("id", "secret");
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials]);
    let mut store = t.store();
    store["kind"] = json!("ObjectStore");
    store["spec"].as_object_mut().unwrap().remove("access");
    for (name, host, why) in [
        ("literal", "127.0.0.1", "a loopback address"),
        ("name", "localhost", "a loopback address"),
        // A resolver reads this number as 127.0.0.1. With virtual-hosted addressing the bucket name precedes the
        // number, so the number can also be a part of an IP address.
        ("number", "2130706433", "can read such a host as an IP address"),
    ] {
        store["metadata"] = json!({"name": name, "namespace": t.name()});
        store["spec"]["s3"]["endpoint"] = json!(format!("http://{host}:{port}"));
        let grant = json!({"storeRef": {"kind": "ObjectStore", "name": name}});
        t.apply(&[store.clone(), t.grant("UploadGrant", name, grant)]);
        let grant = t.reason(&format!("ug/{name}"), "EndpointNotAllowed");
        assert_eq!(t.kstatus(&grant), "Failed");
        let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
        let store = t.reason(&format!("ostore/{name}"), "EndpointNotAllowed");
        assert_eq!(t.kstatus(&store), "Failed");
        assert!(t.get(&format!("secret/{name}")).is_none());
    }
    assert!(listener.accept().is_err(), "the operator opened a connection");
}

/// An access rule that selects namespaces by label follows changes of the labels. A namespace that no rule selects is
/// refused.
#[test]
fn namespace_selector_follows_label_changes() {
    let t = Tenant::new("selectors");
    // The operator runs with its default resync interval of ten minutes, so it must react to the label itself.
    let _operator = t.operator();
    let mut store = t.store();
    store["spec"]["access"][0]["namespaces"] = json!({"selector": {"matchLabels": {"team": "web"}}});
    t.apply(&[store, t.grant("DownloadGrant", "g", json!({}))]);
    let grant = t.reason("dg/g", "NamespaceNotAllowed");
    assert_eq!(t.kstatus(&grant), "Failed");
    t.kubectl(&["label", "namespace", t.name(), "team=web"]);
    t.reason("dg/g", "Issued");
    t.kubectl(&["label", "namespace", t.name(), "team-"]);
    t.reason("dg/g", "NamespaceNotAllowed");
    assert!(t.get("secret/g").is_none());
}

/// Missing and invalid credentials get their own reasons. Valid credentials that are added later are used.
#[test]
fn missing_and_invalid_credentials_get_their_own_reasons() {
    let t = Tenant::new("credentials");
    let _operator = t.operator();
    t.world
        .plane
        .kubectl(&["delete", "secret", t.name(), "--namespace", "valet-system"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    let grant = t.reason("dg/g", "CredentialsNotFound");
    assert_eq!(t.kstatus(&grant), "InProgress");
    let mut broken = t.credentials("id", "secret");
    broken["stringData"] = json!({"AWS_ACCESS_KEY_ID": "id", "password": "marker-1234"});
    t.apply(&[broken]);
    let grant = t.reason("dg/g", "CredentialsInvalid");
    let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("AWS_SECRET_ACCESS_KEY") && !message.contains("marker"),
        "{message}"
    );

    // Temporary credentials that expire before `expirationSeconds` would end: the grant expires with them, and its
    // condition reports this.
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(120);
    let mut temporary = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    temporary["stringData"]["AWS_CREDENTIAL_EXPIRATION"] = json!(end.to_string());
    t.world
        .plane
        .kubectl(&["delete", "secret", t.name(), "--namespace", "valet-system"])
        .unwrap();
    t.apply(&[temporary]);
    let grant = t.reason_within("dg/g", "Issued", Duration::from_secs(90));
    let expires: jiff::Timestamp = grant["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    assert!(
        (110..120).contains(&(expires.as_second() - (end.as_second() - 120))),
        "{expires} {end}"
    );
    assert_eq!(says(&grant, "Active"), "True ExpiryTruncated");
    assert_eq!(t.mount("g").files["expiry"], grant["status"]["expirationTime"]);
    eventually(SOON, "an event", || {
        t.kubectl(&["get", "events"]).contains("ExpiryTruncated").then_some(())
    });
}
