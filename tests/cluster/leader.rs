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
    let mark = t.mark();
    let first = replica();
    eventually(SOON, "the first to lead", || first.leads().then_some(()));
    let second = replica();
    assert!(!second.leads(), "one leads");
    assert_eq!(second.http_get("/readyz").unwrap().0, 200, "to wait is to be ready");
    serve("one");

    // Killed: nobody gives the lease up, it runs out.
    first.kill();
    serve("two");
    assert!(second.leads());

    // Frozen: it does not know that it is late, and stops as soon as it can.
    let third = replica();
    second.process().pause();
    serve("three");
    assert!(third.leads());
    second.process().resume();
    let status = second.process().wait(SOON).expect("who has lost the lease stops");
    assert!(!status.success(), "{status}");
    assert!(second.log_text().contains("leading"));

    // Asked to stop: it gives the lease up at its end, so that nobody waits for it to run out. The fourth must not take it
    // before that was seen.
    let fourth = replica();
    assert!(!fourth.leads());
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
        .filter(|e| e.verb() == "create" && e.resource() == "secrets");
    assert_eq!(created.count(), 4, "one key a grant");
}
