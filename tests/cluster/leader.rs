//! Several replicas and one Lease: who works, who waits, and how the work changes hands.

use std::time::{Duration, Instant};

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, eventually};

use crate::world::{Tenant, VALET};

/// Longer than the lease's 10 s, a look every 2 s, and a start.
const HAND_OVER: Duration = Duration::from_secs(30);

#[test]
fn the_work_changes_hands() {
    let t = Tenant::new("leader");
    // Each test's replicas have a lease of their own, in an operator namespace of their own.
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec!["--leader-elect".into(), format!("--operator-namespace={}", t.name())],
        ..OperatorOptions::default()
    };
    let replica = || Operator::start(VALET.as_ref(), &t.world.plane, &options).unwrap();
    let leads = |o: &Operator| o.metrics().is_ok_and(|m| m.lines().any(|l| l == "valet_leader 1"));
    let serve = |name: &str, within: Duration| {
        let began = Instant::now();
        t.apply(&[t.grant("DownloadGrant", name, json!({"expirationSeconds": 600}))]);
        t.reason_within(&format!("dg/{name}"), "Issued", within);
        began.elapsed()
    };
    // What a replica tells of grants and stores.
    let told = |o: &Operator| -> Vec<String> {
        let metrics = o.metrics().expect("the replica can be scraped");
        let is_told = |l: &&str| {
            ["valet_grants", "valet_key_", "valet_store_"]
                .iter()
                .any(|m| l.starts_with(m))
        };
        metrics.lines().filter(is_told).map(str::to_owned).collect()
    };
    let gauges = [
        "valet_grants{",
        "valet_key_expiration_timestamp_seconds{",
        "valet_store_ready{",
        "valet_store_condition{",
    ];
    let tells_all = |o: &Operator| {
        let told = told(o);
        gauges
            .iter()
            .all(|g| told.iter().any(|line| line.starts_with(g)))
            .then_some(())
    };
    let mark = t.world.plane.audit_mark().unwrap();
    let first = replica();
    eventually(HAND_OVER, "the first to lead", || leads(&first).then_some(()));
    let second = replica();
    assert!(!leads(&second), "one leads");
    assert_eq!(second.http_get("/readyz").unwrap().0, 200, "to wait is to be ready");
    serve("one", HAND_OVER);
    eventually(HAND_OVER, "the one that leads to tell of all", || tells_all(&first));
    assert_eq!(told(&second), Vec::<String>::new(), "one that waits tells of nothing");

    // Killed: nobody gives the lease up, it runs out.
    first.kill();
    serve("two", HAND_OVER);
    assert!(leads(&second));

    // Frozen: it does not know that it is late, and stops as soon as it can.
    let third = replica();
    second.process().pause();
    serve("three", HAND_OVER);
    assert!(leads(&third));
    eventually(HAND_OVER, "the third to tell of all", || tells_all(&third));
    second.process().resume();
    // Nor does one that has lost the lease and does not know it yet.
    while let Ok(metrics) = second.metrics() {
        let stale = metrics.lines().find(|l| gauges.iter().any(|g| l.starts_with(g)));
        assert_eq!(stale, None);
    }
    let status = second
        .process()
        .wait(Duration::from_secs(10))
        .expect("who has lost the lease stops");
    assert!(!status.success(), "{status}");
    assert!(second.log_text().contains("leading"));

    // Asked to stop: it gives the lease up, and nobody waits for its end.
    let fourth = replica();
    assert!(!leads(&fourth));
    assert_eq!(told(&fourth), Vec::<String>::new());
    assert!(third.terminate().unwrap().success());
    eventually(Duration::from_secs(8), "the fourth to lead", || {
        leads(&fourth).then_some(())
    });
    serve("four", HAND_OVER);

    let events = t.world.plane.audit_since(mark).unwrap();
    let created: Vec<_> = events
        .iter()
        .filter(|e| e.verb() == "create" && e.resource() == "secrets" && e.namespace() == t.name())
        .filter(|e| e.user() == valet_harness::control_plane::OPERATOR)
        .collect();
    assert_eq!(created.len(), 4, "one key a grant");
}
