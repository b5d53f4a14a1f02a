//! Tests of several replicas with one Lease: which replica leads, which replicas stand by, and how leadership
//! changes.

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET};

/// A standby takes over when the leader is killed, frozen or stopped, and each grant gets exactly one credential.
/// `make handover` measures how long a handover takes.
#[test]
fn standby_takes_over_when_the_leader_stops() {
    let t = Tenant::new("leader");
    // The replicas of each test use their own Lease in their own operator namespace.
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec!["--leader-elect".into(), format!("--operator-namespace={}", t.name())],
        ..OperatorOptions::default()
    };
    let replica = || Operator::start(&VALET, &t.world.plane, &options).unwrap();
    let serve = |name: &str| {
        t.apply(&[t.grant("DownloadGrant", name, json!({"expirationSeconds": 600}))]);
        t.reason(&format!("dg/{name}"), "Issued");
    };
    // The metrics of a replica about grants and stores.
    let grant_metrics = |o: &Operator| -> Vec<String> {
        let metrics = o.metrics().expect("the replica can be scraped");
        let is_told = |l: &&str| {
            ["valet_grants", "valet_credential_", "valet_store_"]
                .iter()
                .any(|m| l.starts_with(m))
        };
        metrics.lines().filter(is_told).map(str::to_owned).collect()
    };
    let gauges = [
        "valet_grants{",
        "valet_credential_expiration_timestamp_seconds{",
        "valet_store_ready{",
        "valet_store_condition{",
    ];
    let tells_all = |o: &Operator| {
        let grant_metrics = grant_metrics(o);
        gauges
            .iter()
            .all(|g| grant_metrics.iter().any(|line| line.starts_with(g)))
            .then_some(())
    };
    let mark = t.mark();
    let first = replica();
    eventually(SOON, "the first replica to become the leader", || {
        first.leads().then_some(())
    });
    let second = replica();
    assert!(!second.leads(), "only one replica is the leader");
    assert_eq!(second.http_get("/readyz").unwrap().0, 200, "a standby is ready");
    serve("one");
    eventually(SOON, "the leader to export metrics of all grants", || tells_all(&first));
    assert_eq!(
        grant_metrics(&second),
        Vec::<String>::new(),
        "a standby exports no metrics of grants"
    );

    // The leader is killed and does not release the Lease. A standby takes over when the Lease expires.
    first.kill();
    serve("two");
    assert!(second.leads());

    // The leader is frozen and cannot notice that its Lease has expired. It exits soon after it resumes.
    let third = replica();
    second.process().pause();
    serve("three");
    assert!(third.leads());
    eventually(SOON, "the third replica to export metrics of all grants", || {
        tells_all(&third)
    });
    second.process().resume();
    // A replica that has lost the Lease, and has not noticed it yet, must not report these metrics.
    while let Ok(metrics) = second.metrics() {
        let stale = metrics.lines().find(|l| gauges.iter().any(|g| l.starts_with(g)));
        assert_eq!(stale, None);
    }
    let status = second
        .process()
        .wait(SOON)
        .expect("a replica that has lost the Lease stops");
    assert!(!status.success(), "{status}");
    assert!(second.log_text().contains("became leader"));

    // The leader is stopped. It releases the Lease, so the standby does not have to wait for the expiry. The fourth
    // replica is frozen so that the test can see the released Lease.
    let fourth = replica();
    assert!(!fourth.leads());
    assert_eq!(grant_metrics(&fourth), Vec::<String>::new());
    fourth.process().pause();
    assert!(third.terminate().unwrap().success());
    let lease = t.get("lease/valet").expect("the Lease is in the operator's namespace");
    assert_eq!(lease["spec"]["holderIdentity"], "", "no replica holds the Lease");
    fourth.process().resume();
    eventually(SOON, "the fourth replica to become the leader", || {
        fourth.leads().then_some(())
    });
    serve("four");

    let written = t.written(mark);
    let created = written
        .iter()
        .filter(|e| e.verb() == "create" && e.resource() == "secrets" && e.name() != "valet-record-key");
    assert_eq!(created.count(), 4, "one credential for each grant");
}
