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
    let mark = t.world.plane.audit_mark().unwrap();
    let first = replica();
    eventually(HAND_OVER, "the first to lead", || leads(&first).then_some(()));
    let second = replica();
    assert!(!leads(&second), "one leads");
    assert_eq!(second.http_get("/readyz").unwrap().0, 200, "to wait is to be ready");
    serve("one", HAND_OVER);

    // Killed: nobody gives the lease up, it runs out.
    first.kill();
    serve("two", HAND_OVER);
    assert!(leads(&second));

    // Frozen: it does not know that it is late, and stops as soon as it can.
    let third = replica();
    second.process().pause();
    serve("three", HAND_OVER);
    assert!(leads(&third));
    second.process().resume();
    let status = second
        .process()
        .wait(Duration::from_secs(10))
        .expect("who has lost the lease stops");
    assert!(!status.success(), "{status}");
    assert!(second.log_text().contains("leading"));

    // Asked to stop: it gives the lease up, and nobody waits for its end.
    let fourth = replica();
    assert!(!leads(&fourth));
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
