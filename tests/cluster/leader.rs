//! Several replicas and one Lease: who works, who waits, and how the work changes hands.

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET};

/// How long it takes is measured by `make handover`.
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
    let serve = |name: &str| {
        t.apply(&[t.grant("DownloadGrant", name, json!({"expirationSeconds": 600}))]);
        t.reason(&format!("dg/{name}"), "Issued");
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
    let mark = t.mark();
    let first = replica();
    eventually(SOON, "the first to lead", || first.leads().then_some(()));
    let second = replica();
    assert!(!second.leads(), "one leads");
    assert_eq!(second.http_get("/readyz").unwrap().0, 200, "to wait is to be ready");
    serve("one");
    eventually(SOON, "the one that leads to tell of all", || tells_all(&first));
    assert_eq!(told(&second), Vec::<String>::new(), "one that waits tells of nothing");

    // Killed: nobody gives the lease up, it runs out.
    first.kill();
    serve("two");
    assert!(second.leads());

    // Frozen: it does not know that it is late, and stops as soon as it can.
    let third = replica();
    second.process().pause();
    serve("three");
    assert!(third.leads());
    eventually(SOON, "the third to tell of all", || tells_all(&third));
    second.process().resume();
    // Nor does one that has lost the lease and does not know it yet.
    while let Ok(metrics) = second.metrics() {
        let stale = metrics.lines().find(|l| gauges.iter().any(|g| l.starts_with(g)));
        assert_eq!(stale, None);
    }
    let status = second.process().wait(SOON).expect("who has lost the lease stops");
    assert!(!status.success(), "{status}");
    assert!(second.log_text().contains("became leader"));

    // Asked to stop: it gives the lease up at its end, so that nobody waits for it to run out. The fourth must not take it
    // before that was seen.
    let fourth = replica();
    assert!(!fourth.leads());
    assert_eq!(told(&fourth), Vec::<String>::new());
    fourth.process().pause();
    assert!(third.terminate().unwrap().success());
    let lease = t.get("lease/valet").expect("the Lease is in the operator's namespace");
    assert_eq!(lease["spec"]["holderIdentity"], "", "nobody holds it");
    fourth.process().resume();
    eventually(SOON, "the fourth to lead", || fourth.leads().then_some(()));
    serve("four");

    let written = t.written(mark);
    let created = written
        .iter()
        .filter(|e| e.verb() == "create" && e.resource() == "secrets" && e.name() != "valet-record-key");
    assert_eq!(created.count(), 4, "one key a grant");
}
