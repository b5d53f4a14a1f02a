//! Tests of operators that each serve one namespace: which ClusterObjectStores they ignore, and how they share the
//! status of a ClusterObjectStore.

use serde_json::{Value, json};
use valet_harness::{AuditMark, Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET, condition, says};

/// Starts an operator whose operator namespace is the tenant's namespace, so that it reads its credentials there.
fn apart(t: &Tenant) -> Operator {
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec![format!("--operator-namespace={}", t.name())],
        ..OperatorOptions::default()
    };
    Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts")
}

fn store(t: &Tenant, name: &str) -> Value {
    t.get(&format!("costore/{name}")).expect("the store is there")
}

/// Status and reason of the condition that this namespace's operator writes for itself on a shared store.
fn operator_condition(store: &Value, t: &Tenant, type_: &str) -> String {
    says(store, &format!("{}/{type_}", t.name()))
}

/// The store of the first tenant, with an access rule for both tenants.
fn shared(a: &Tenant, b: &Tenant) -> Value {
    let mut store = a.store();
    let names = json!([a.name(), b.name()]);
    store["spec"]["access"][0]["namespaces"]["names"] = names;
    store
}

/// When the first operator's credentials expire, as time and in seconds since 1970. Their Secret contains this time.
const END: &str = "2099-01-31T18:00:00Z";
const END_SECONDS: i64 = 4_073_565_600;

/// When this operator's credentials for the store expire, from its metrics.
fn ends(operator: &Operator, name: &str) -> Option<i64> {
    let metrics = operator.metrics().expect("the operator can be scraped");
    let of = format!("_timestamp_seconds{{kind=\"ClusterObjectStore\",namespace=\"\",name=\"{name}\"");
    let line = metrics
        .lines()
        .find(|l| l.starts_with("valet_store_credentials_expiration") && l.contains(&of))?;
    Some(line.rsplit(' ').next()?.parse().expect("it is a number of seconds"))
}

/// How often the status of the store was written since this mark.
fn writes(t: &Tenant, name: &str, since: AuditMark) -> usize {
    let all = t.world.plane.audit_since(since).expect("the audit log can be read");
    all.iter()
        .filter(|e| {
            e.is_write() && e.resource() == "clusterobjectstores" && e.subresource() == "status" && e.name() == name
        })
        .count()
}

/// An operator ignores a store that allows none of its namespaces. It does not write or probe the store, even if an
/// annotation requests a conformance check.
#[test]
fn store_without_rule_for_own_namespace_is_ignored() {
    let (t, other) = (Tenant::new("scoped"), Tenant::new("scopedother"));
    let mut asks = t.store();
    asks["metadata"]["annotations"] = json!({"valetkey.dev/check-requested-at": "now"});
    t.apply(&[asks]);
    let mark = t.world.plane.audit_mark().expect("the audit log is there");
    let stranger = apart(&other);
    other.reason(&format!("costore/{}", other.name()), "CredentialsNotFound");
    let seen = store(&t, t.name());
    assert_eq!(says(&seen, "Ready"), "Unknown Pending", "{}", seen["status"]);
    assert_eq!(writes(&t, t.name(), mark), 0);
    assert!(t.world.s3.versions(t.name(), "").unwrap().is_empty());
    let metrics = stranger.metrics().unwrap();
    assert!(!metrics.contains(&format!("name=\"{}\"", t.name())), "{metrics}");
    // A grant in the operator's namespace that names this store is refused, and the store is still not written.
    let mut grant = other.grant("DownloadGrant", "g", json!({}));
    grant["spec"]["storeRef"]["name"] = json!(t.name());
    other.apply(&[grant]);
    eventually(SOON, "the grant to be reconciled", || {
        other.get("dg/g").filter(|g| says(g, "Ready").starts_with("False"))
    });
    assert_eq!(writes(&t, t.name(), mark), 0);

    let _operator = t.operator();
    let answered = eventually(SOON, "the conformance check to finish", || {
        t.get(&format!("costore/{}", t.name()))
            .filter(|s| s["status"]["conformanceCheck"]["request"] == "now")
    });
    assert_eq!(says(&answered, "Ready"), "True Ready");
    assert_eq!(says(&answered, "ConstraintsEnforced"), "True ConstraintsEnforced");
    let types: Vec<_> = answered["status"]["conditions"].as_array().unwrap().iter().collect();
    assert!(
        types.iter().all(|c| !c["type"].as_str().unwrap().contains('/')),
        "{types:?}"
    );
}

/// Two operators with different credentials share a store. Each writes its own conditions, the merged conditions
/// agree with both, and no status is written twice.
#[test]
fn two_operators_merge_conditions_of_one_store() {
    let (a, b) = (Tenant::new("voicea"), Tenant::new("voiceb"));
    let mut credentials = a.credentials(a.world.s3.access_key(), a.world.s3.secret_key());
    credentials["stringData"]["AWS_CREDENTIAL_EXPIRATION"] = json!(END);
    a.apply(&[credentials, shared(&a, &b)]);
    let name = a.name();
    let first = a.operator();
    let alone = eventually(SOON, "the first operator's conditions", || {
        Some(store(&a, name)).filter(|s| operator_condition(s, &a, "Ready") == "True Ready")
    });
    assert_eq!(says(&alone, "Ready"), "True Ready");
    assert!(!alone["status"]["capabilities"].as_array().unwrap().is_empty());
    assert_eq!(says(&alone, "UnsignedHeadersRefused"), "True HeadersRefused");
    assert_eq!(alone["status"]["credentialsExpirationTime"], END);

    // The second operator has no credentials for the store.
    let second = apart(&b);
    let both = eventually(SOON, "the conditions of both operators", || {
        Some(store(&a, name)).filter(|s| operator_condition(s, &b, "Ready") == "False CredentialsNotFound")
    });
    assert_eq!(operator_condition(&both, &a, "Ready"), "True Ready");
    assert_eq!(says(&both, "Ready"), "False CredentialsNotFound");
    let said = condition(&both, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(said.contains(&format!("for namespace {}: ", b.name())), "{said}");
    assert_eq!(a.kstatus(&both), "InProgress");
    let elsewhere = json!({"storeRef": {"kind": "ClusterObjectStore", "name": name}});
    let key = json!({"key": b.key("g")});
    let mut theirs = b.grant("DownloadGrant", "g", elsewhere);
    crate::world::merge(&mut theirs["spec"], key);
    a.apply(&[a.grant("DownloadGrant", "g", json!({}))]);
    b.apply(&[theirs]);
    a.reason("dg/g", "Issued");
    b.reason("dg/g", "CredentialsNotFound");
    let ready = |operator: &Operator| {
        let line = format!("valet_store_ready{{kind=\"ClusterObjectStore\",namespace=\"\",name=\"{name}\"");
        let metrics = operator.metrics().unwrap();
        let line = metrics.lines().find(|l| l.starts_with(&line)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no such store in {metrics}"))
    };
    for (operator, t, expected) in [
        (&first, &a, "reason=\"Ready\"} 1"),
        (&second, &b, "reason=\"CredentialsNotFound\"} 0"),
    ] {
        let expected = format!(",scope=\"{}\",{expected}", t.name());
        let said = ready(operator);
        assert!(said.ends_with(&expected), "{said}");
    }
    assert_eq!((ends(&first, name), ends(&second, name)), (Some(END_SECONDS), None));
    assert!(both["status"]["credentialsExpirationTime"].is_null());

    // When both operators have seen each other's conditions, they write nothing more. This also applies after a
    // restart and to the resync of each minute.
    drop((first, second));
    let restart = || (a.operator(), apart(&b));
    let settle = restart();
    let settled = eventually(SOON, "both operators to stop writing", || {
        let now = store(&a, name);
        let is_settled = now["status"]["capabilities"].as_array().is_none_or(Vec::is_empty)
            && operator_condition(&now, &a, "UnsignedHeadersRefused") == "True HeadersRefused"
            && says(&now, "UnsignedHeadersRefused").is_empty();
        is_settled.then_some(now)
    });
    drop(settle);
    // A message that only one operator can give is in that operator's own condition.
    let own = format!("{name}/Ready");
    let said = condition(&settled, &own).unwrap()["message"].as_str().unwrap();
    assert!(said.ends_with(&format!("; the credentials expire at {END}")), "{said}");
    let mark = a.world.plane.audit_mark().unwrap();
    let operators = restart();
    // The conformance check changes the conditions of only one operator, so there is one write.
    let request = |value: &str| {
        let value = format!("valetkey.dev/check-requested-at={value}");
        a.kubectl(&["annotate", "--overwrite", &format!("costore/{name}"), &value]);
    };
    request("one");
    eventually(SOON, "the conformance check of the operator with credentials", || {
        Some(store(&a, name))
            .filter(|s| operator_condition(s, &a, "ConstraintsEnforced") == "True ConstraintsEnforced")
    });
    assert_eq!(writes(&a, name, mark), 1, "only changed conditions were written");
    assert_eq!(
        settled["status"]["observedGeneration"],
        store(&a, name)["metadata"]["generation"]
    );

    // When the second operator also has credentials, the store is ready, and each operator runs the conformance
    // check.
    let mut credentials = a.credentials(a.world.s3.access_key(), a.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(b.name());
    b.apply(&[credentials]);
    request("both");
    let fine = eventually(SOON, "both operators to report Ready", || {
        let now = store(&a, name);
        let is_fine = operator_condition(&now, &b, "ConstraintsEnforced") == "True ConstraintsEnforced"
            && says(&now, "Ready") == "True Ready";
        is_fine.then_some(now)
    });
    assert_eq!(
        operator_condition(&fine, &a, "ConstraintsEnforced"),
        "True ConstraintsEnforced"
    );
    for condition in [format!("{}/Ready", b.name()), "Ready".to_owned()] {
        let wait = format!("--for=condition={condition}");
        a.kubectl(&["wait", &wait, "--timeout=5s", &format!("costore/{name}")]);
    }
    assert!(fine["status"]["conformanceCheck"].is_null());
    b.reason("dg/g", "Issued");

    // When the rule allows only one namespace, that operator writes plain conditions, and the other operator removes
    // its own.
    a.apply(&[a.store()]);
    let own = eventually(SOON, "the conditions of the other operator to be removed", || {
        let now = store(&a, name);
        let types = now["status"]["conditions"].to_string();
        (!types.contains(&format!("{}/", b.name())) && !types.contains(&format!("{name}/"))).then_some(now)
    });
    assert_eq!(says(&own, "Ready"), "True Ready");
    assert!(!own["status"]["capabilities"].as_array().unwrap().is_empty());
    drop(operators);
}
