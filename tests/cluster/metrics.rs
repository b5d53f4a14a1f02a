//! Tests of the metrics: after a fixed list of grants and stores, each metric has the expected value.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET, says};

/// When the store's credentials expire, as their Secret says. This is later than any grant's expiry.
const SESSION_END: &str = "2099-01-31T18:00:00Z";

/// All label names that may appear. Their values are names of grants, stores and namespaces, or come from fixed
/// lists.
const LABELS: [&str; 13] = [
    "kind",
    "le",
    "name",
    "namespace",
    "outcome",
    "reason",
    "scope",
    "status",
    "store",
    "store_kind",
    "store_namespace",
    "type",
    "version",
];

/// All metric series with their values.
fn scrape(operator: &Operator) -> BTreeMap<String, f64> {
    let text = operator.metrics().expect("the operator can be scraped");
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series has a value");
            (series.to_owned(), value.parse().expect("it is a number"))
        })
        .collect()
}

/// The labels of a series, by name.
fn labels(series: &str) -> BTreeMap<&str, &str> {
    let inside = series
        .split_once('{')
        .map_or("", |(_, rest)| rest.trim_end_matches('}'));
    inside
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, value)| (name, value.trim_end_matches('"')))
        .collect()
}

fn seconds(time: &Value) -> f64 {
    let time: Timestamp = time.as_str().expect("there is a time").parse().expect("it is RFC 3339");
    time.as_second() as f64
}

#[test]
fn every_metric_has_the_expected_value() {
    let t = Tenant::new("counted");
    let ns = t.name();
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["stringData"]["AWS_CREDENTIAL_EXPIRATION"] = json!(SESSION_END);
    let mut away = t.store();
    away["metadata"]["name"] = json!(format!("{ns}-away"));
    away["spec"]["s3"]["endpoint"] = json!("http://127.0.0.1:9");
    t.apply(&[credentials, away]);

    let operator = t.operator();
    let in_parts = json!({"mode": "Multipart", "constraints": {"contentLength": 3}});
    t.apply(&[
        t.grant("UploadGrant", "up", json!({})),
        t.grant("UploadGrant", "no", json!({"key": "elsewhere/x"})),
        t.grant("UploadGrant", "parts", in_parts),
        t.grant(
            "UploadGrant",
            "held",
            json!({"storeRef": {"name": format!("{ns}-away")}}),
        ),
        t.grant("DownloadGrant", "over", json!({"expirationSeconds": 2})),
        t.grant(
            "DownloadGrant",
            "live",
            json!({"expirationSeconds": 900, "renewal": {"policy": "Always"}}),
        ),
        t.grant("DownloadGrant", "lost", json!({"storeRef": {"name": "nowhere"}})),
    ]);
    t.reason("ug/no", "KeyNotAllowed");
    t.reason("dg/lost", "StoreNotFound");
    t.reason("ug/parts", "Issued");
    t.reason("ug/up", "Issued");
    let uid = t.get("ug/up").expect("it is there")["metadata"]["uid"].clone();
    assert_eq!(t.mount("up").upload(&t.file("up.bin", b"twelve bytes")).0, 200);
    t.reason_within("ug/up", "Completed", Duration::from_secs(70));
    t.kubectl(&["delete", "ug/parts", "--timeout=30s"]);
    t.reason("dg/over", "Expired");
    t.reason("ug/held", "StoreUnreachable");
    let live = t.reason("dg/live", "Issued");
    eventually(SOON, "the store to be probed", || {
        (says(&t.get(&format!("costore/{ns}"))?, "UnsignedHeadersRefused") == "True HeadersRefused").then_some(())
    });

    let mut expected = BTreeMap::from([
        (
            format!("valet_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")),
            1.0,
        ),
        ("valet_leader".to_owned(), 1.0),
        (r#"valet_credentials_issued_total{kind="UploadGrant"}"#.to_owned(), 2.0),
        (
            r#"valet_credentials_issued_total{kind="DownloadGrant"}"#.to_owned(),
            2.0,
        ),
        (
            r#"valet_grant_to_credential_seconds_count{kind="UploadGrant"}"#.to_owned(),
            2.0,
        ),
        (
            r#"valet_grant_to_credential_seconds_count{kind="DownloadGrant"}"#.to_owned(),
            2.0,
        ),
        (
            r#"valet_grants_finished_total{kind="UploadGrant",reason="Completed"}"#.to_owned(),
            1.0,
        ),
        (
            r#"valet_grants_finished_total{kind="DownloadGrant",reason="Expired"}"#.to_owned(),
            1.0,
        ),
        (r#"valet_multipart_uploads_total{outcome="initiated"}"#.to_owned(), 1.0),
        (r#"valet_multipart_uploads_total{outcome="aborted"}"#.to_owned(), 1.0),
        (
            format!(r#"valet_grants_refused_total{{kind="UploadGrant",namespace="{ns}",reason="KeyNotAllowed"}}"#),
            1.0,
        ),
        (
            format!(
                r#"valet_credential_expiration_timestamp_seconds{{kind="DownloadGrant",namespace="{ns}",name="live"}}"#
            ),
            seconds(&live["status"]["expirationTime"]),
        ),
        (
            format!(
                r#"valet_credential_renewal_timestamp_seconds{{kind="DownloadGrant",namespace="{ns}",name="live"}}"#
            ),
            seconds(&live["status"]["renewalTime"]),
        ),
        (
            format!(
                r#"valet_store_credentials_expiration_timestamp_seconds{{kind="ClusterObjectStore",namespace="",name="{ns}",scope=""}}"#
            ),
            seconds(&json!(SESSION_END)),
        ),
    ]);
    for (kind, reason) in [
        ("UploadGrant", "Completed"),
        ("UploadGrant", "KeyNotAllowed"),
        ("UploadGrant", "StoreUnreachable"),
        ("DownloadGrant", "Expired"),
        ("DownloadGrant", "Issued"),
        ("DownloadGrant", "StoreNotFound"),
    ] {
        let series = format!(r#"valet_grants{{kind="{kind}",namespace="{ns}",reason="{reason}"}}"#);
        expected.insert(series, 1.0);
    }
    let store = |name: &str| format!(r#"kind="ClusterObjectStore",namespace="",name="{name}",scope="""#);
    let away = format!("{ns}-away");
    for (name, reason, ready) in [(ns, "Ready", 1.0), (&away, "StoreUnreachable", 0.0)] {
        let series = format!(r#"valet_store_ready{{{},reason="{reason}"}}"#, store(name));
        expected.insert(series, ready);
    }
    for type_ in ["ClockInSync", "UnsignedHeadersRefused"] {
        let series = format!(r#"valet_store_condition{{{},type="{type_}",status="True"}}"#, store(ns));
        expected.insert(series, 1.0);
    }
    // Gauges that follow from watch events can be late, so the test tries again for ten seconds.
    let wrong = |found: &BTreeMap<String, f64>| {
        let differ = expected
            .iter()
            .filter(|(series, value)| found.get(*series) != Some(value));
        differ
            .map(|(series, value)| format!("{series} is {:?}, not {value}", found.get(series)))
            .collect::<Vec<_>>()
    };
    let mut found = scrape(&operator);
    for _ in 0..20 {
        if wrong(&found).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
        found = scrape(&operator);
    }
    assert_eq!(wrong(&found), Vec::<String>::new());

    // No other series of this namespace exists.
    let ours = |series: &&String| series.contains(&format!("namespace=\"{ns}\""));
    let known = found.keys().filter(ours).all(|series| expected.contains_key(series));
    assert!(known, "{:#?}", found.keys().filter(ours).collect::<Vec<_>>());

    // The numbers of polls and reconciles vary, so only their presence is checked.
    for outcome in ["absent", "present"] {
        let series = format!(
            r#"valet_store_polls_total{{store_kind="ClusterObjectStore",store_namespace="",store="{ns}",outcome="{outcome}"}}"#
        );
        assert!(found.get(&series).is_some_and(|n| *n >= 1.0), "{series}");
    }
    let failed = format!(
        r#"valet_store_polls_total{{store_kind="ClusterObjectStore",store_namespace="",store="{away}",outcome="error"}}"#
    );
    assert!(found.get(&failed).is_some_and(|n| *n >= 1.0), "{failed}");
    for kind in ["UploadGrant", "DownloadGrant"] {
        let of = |name: &str| {
            found
                .get(&format!("{name}{{kind=\"{kind}\"}}"))
                .copied()
                .unwrap_or_default()
        };
        let reconciles = of("valet_reconcile_duration_seconds_count");
        assert!(reconciles >= 2.0, "{kind}: {reconciles} visits");
        let waited = of("valet_grant_to_credential_seconds_sum");
        assert!(
            (0.0..60.0).contains(&waited),
            "{kind}: the credentials were issued after {waited} s"
        );
    }
    no_label_betrays(&found, &[uid.as_str().expect("it has one"), &t.key(""), "elsewhere/x"]);
}

/// When a grant or a store is deleted, its gauges are missing from the next scrape, so that alerts end. Its counters
/// stay for a while, so that a scrape can read their last value.
#[test]
fn gauges_of_deleted_objects_are_removed() {
    let t = Tenant::new("gone");
    let ns = t.name();
    let mut own = t.store();
    own["kind"] = json!("ObjectStore");
    own["metadata"] = json!({"name": "own", "namespace": ns});
    own["spec"].as_object_mut().expect("a spec").remove("access");
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["stringData"]["AWS_CREDENTIAL_EXPIRATION"] = json!(SESSION_END);
    let mut theirs = credentials.clone();
    theirs["metadata"]["namespace"] = json!(ns);
    // A store that is not ready. Its alert must end when the store is deleted.
    let mut away = t.store();
    away["metadata"]["name"] = json!(format!("{ns}-away"));
    away["spec"]["s3"]["endpoint"] = json!("http://127.0.0.1:9");
    t.apply(&[credentials, theirs, own, away]);
    let options = OperatorOptions {
        namespace: Some(ns.to_owned()),
        args: vec![
            "--allow-private-endpoints=127.0.0.0/8".into(),
            "--tenant-store-requests=All".into(),
        ],
        ..OperatorOptions::default()
    };
    let operator = Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts");
    let by_own = json!({"storeRef": {"kind": "ObjectStore", "name": "own"}, "renewal": {"policy": "Always"}, "expirationSeconds": 900});
    t.apply(&[
        t.grant("UploadGrant", "up", by_own),
        t.grant("UploadGrant", "no", json!({"key": "elsewhere/x"})),
    ]);
    t.reason("ug/up", "Issued");
    t.reason("ug/no", "KeyNotAllowed");

    let gauges = [
        "valet_grants",
        "valet_credential_expiration_timestamp_seconds",
        "valet_credential_renewal_timestamp_seconds",
        "valet_store_ready",
        "valet_store_condition",
        "valet_store_credentials_expiration_timestamp_seconds",
    ];
    // The series with these metric names that belong to this test.
    let ours = |names: &[&str]| -> Vec<String> {
        let all = scrape(&operator).into_keys();
        let of_ours = all.filter(|series| series.contains(&format!("\"{ns}\"")) || series.contains(&away_of(ns)));
        of_ours
            .filter(|series| names.iter().any(|name| series.starts_with(&format!("{name}{{"))))
            .collect()
    };
    eventually(SOON, "every gauge to be exported", || {
        let ours = ours(&gauges);
        let has = |name: &&str| ours.iter().any(|series| series.starts_with(&format!("{name}{{")));
        (gauges.iter().all(has) && ours.iter().any(|s| s.contains(&away_of(ns)))).then_some(())
    });
    t.kubectl(&["delete", "ug", "--all"]);
    t.kubectl(&["delete", "ostore/own"]);
    t.kubectl(&["delete", &format!("costore/{ns}"), &format!("costore/{ns}-away")]);
    eventually(Duration::from_secs(5), "every gauge to be removed", || {
        ours(&gauges).is_empty().then_some(())
    });
    let counted = ours(&["valet_grants_refused_total", "valet_store_polls_total"]);
    assert!(
        counted.iter().any(|s| s.contains("KeyNotAllowed")) && counted.iter().any(|s| s.contains("store=\"own\"")),
        "{counted:#?}"
    );
}

fn away_of(ns: &str) -> String {
    format!("\"{ns}-away\"")
}

/// No label name or value contains a URL, an object key or a UID.
fn no_label_betrays(found: &BTreeMap<String, f64>, secrets: &[&str]) {
    for series in found.keys() {
        for (name, value) in labels(series) {
            assert!(LABELS.contains(&name), "an unknown label, {name}: {series}");
            let telling = ["://", "X-Amz-", "Signature", "sig="]
                .iter()
                .chain(secrets)
                .any(|word| value.contains(word));
            // The parts of a UID have 8, 4, 4, 4 and 12 characters.
            let parts: Vec<_> = value.split('-').map(str::len).collect();
            assert!(!telling && !parts.ends_with(&[8, 4, 4, 4, 12]), "{series}");
        }
    }
}

/// If the last write of a reconcile is rejected, the reconcile counts as failed. Here the service account must not
/// write the status.
#[test]
fn failed_reconcile_is_counted() {
    let t = Tenant::new("failing");
    let plane = &t.world.plane;
    let name = format!("weak-{}", t.name());
    t.kubectl(&["create", "serviceaccount", "weak"]);
    let rule = |groups: Value, resources: Value, verbs: Value| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let read_verbs = json!(["get", "list", "watch"]);
    t.apply(&[
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [
                rule(json!(["valetkey.dev"]), json!(["*"]), read_verbs.clone()),
                rule(json!([""]), json!(["namespaces"]), read_verbs),
                rule(json!([""]), json!(["secrets"]), json!(["get", "create"])),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "weak", "namespace": t.name()}],
        }),
    ]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        token: Some(plane.service_account_token(t.name(), "weak").expect("it has a token")),
        ..OperatorOptions::default()
    };
    let operator = Operator::start(&VALET, plane, &options).expect("the operator starts");
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    t.mount("g");
    let series = r#"valet_reconcile_errors_total{kind="DownloadGrant"}"#;
    eventually(SOON, "two reconciles to fail", || {
        scrape(&operator).get(series).filter(|n| **n >= 2.0).map(|_| ())
    });
    // Each attempt signs a new credential, but only one was written to the Secret.
    let issued = scrape(&operator)
        .get(r#"valet_credentials_issued_total{kind="DownloadGrant"}"#)
        .copied();
    assert_eq!(issued, Some(1.0));
}
