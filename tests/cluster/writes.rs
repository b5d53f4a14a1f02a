//! Tests of the number of requests that a grant makes to the apiserver, from the audit log.

use std::time::Duration;

use serde_json::json;
use valet_harness::eventually;

use crate::world::{SOON, Tenant};

/// A grant needs two writes until its credential is issued: one Secret and one status. Afterwards there are no
/// writes.
#[test]
fn issuing_needs_two_writes_and_an_idle_grant_none() {
    const GRANTS: usize = 20;
    let t = Tenant::new("writes");
    let _operator = t.operator();
    // The operator writes the store's status first, so that this write does not count.
    eventually(SOON, "the store to be ready", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        store["status"]["conditions"]
            .as_array()
            .filter(|c| !c.is_empty())
            .map(|_| ())
    });
    let mark = t.world.plane.audit_mark().unwrap();
    let grants: Vec<_> = (0..GRANTS)
        .map(|n| t.grant("DownloadGrant", &format!("g{n}"), json!({})))
        .collect();
    t.apply(&grants);
    for n in 0..GRANTS {
        t.reason(&format!("dg/g{n}"), "Issued");
    }
    // The watch events of the operator's own writes arrive within this time, and so would any write that they cause.
    std::thread::sleep(Duration::from_secs(3));
    let mine = |events: Vec<valet_harness::AuditEvent>| {
        let of = |e: &valet_harness::AuditEvent| {
            e.namespace() == t.name() && e.user() == valet_harness::control_plane::OPERATOR
        };
        events.into_iter().filter(of).collect::<Vec<_>>()
    };
    let events = mine(t.world.plane.audit_since(mark).unwrap());
    let writes: Vec<_> = events.iter().filter(|e| e.is_write()).collect();
    let count = |verb: &str, resource: &str, subresource: &str| {
        writes
            .iter()
            .filter(|e| (e.verb(), e.resource(), e.subresource()) == (verb, resource, subresource))
            .count()
    };
    assert_eq!(count("create", "secrets", ""), GRANTS);
    assert_eq!(count("patch", "downloadgrants", "status"), GRANTS);
    assert_eq!(
        writes.len(),
        2 * GRANTS,
        "{:?}",
        writes.iter().map(|e| e.uri()).collect::<Vec<_>>()
    );
    assert!(writes.iter().all(|e| e.code() < 300), "the apiserver rejected a write");

    let mark = t.world.plane.audit_mark().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let idle = mine(t.world.plane.audit_since(mark).unwrap());
    assert!(
        idle.iter().all(|e| !e.is_write()),
        "{:?}",
        idle.iter().map(|e| e.uri()).collect::<Vec<_>>()
    );
}
