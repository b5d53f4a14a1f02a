//! Tests of the number of requests that a grant makes to the apiserver, from the audit log.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::{AuditEvent, AuditMark, control_plane::OPERATOR, eventually};

use crate::world::{SOON, Tenant};

/// Returns the operator's requests in the tenant's namespace since a mark.
fn requests(t: &Tenant, mark: AuditMark) -> Vec<AuditEvent> {
    let events = t.world.plane.audit_since(mark).unwrap();
    let is_own = |event: &AuditEvent| event.namespace() == t.name() && event.user() == OPERATOR;
    events.into_iter().filter(is_own).collect()
}

/// Creates grants with these fields and waits until their credentials are issued.
fn issue(t: &Tenant, count: usize, spec: &Value) {
    let grants: Vec<_> = (0..count)
        .map(|n| t.grant("DownloadGrant", &format!("g{n}"), spec.clone()))
        .collect();
    t.apply(&grants);
    for n in 0..count {
        t.reason(&format!("dg/g{n}"), "Issued");
    }
}

fn uris(events: &[AuditEvent]) -> Vec<&str> {
    events.iter().map(AuditEvent::uri).collect()
}

/// A grant needs two writes and no read until its credential is issued: one Secret and one status. Afterwards there are
/// no writes.
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
    issue(&t, GRANTS, &json!({}));
    // The watch events of the operator's own writes arrive within this time, and so would any write that they cause.
    std::thread::sleep(Duration::from_secs(3));
    let events = requests(&t, mark);
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

    assert!(events.iter().all(AuditEvent::is_write), "{:?}", uris(&events));

    let mark = t.world.plane.audit_mark().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let idle = requests(&t, mark);
    assert!(idle.iter().all(|e| !e.is_write()), "{:?}", uris(&idle));
}

/// After a restart, the operator writes nothing and does not read all Secrets at once. It spreads the reads over the
/// resync interval.
#[test]
fn restart_needs_no_writes_and_few_reads() {
    const GRANTS: usize = 120;
    let t = Tenant::new("restart-requests");
    let operator = t.operator();
    issue(&t, GRANTS, &json!({}));
    operator.terminate().unwrap();
    let mark = t.world.plane.audit_mark().unwrap();
    let _operator = t.operator();
    std::thread::sleep(Duration::from_secs(10));
    let started = requests(&t, mark);
    assert!(started.iter().all(|e| !e.is_write()), "{:?}", uris(&started));
    let reads = started.iter().filter(|e| e.resource() == "secrets").count();
    assert!(reads <= GRANTS / 10, "{:?}", uris(&started));
}

/// When a credential expires, the operator that wrote its Secret needs one deletion and one status, without a read.
#[test]
fn expiry_needs_two_writes_and_no_reads() {
    const GRANTS: usize = 20;
    let t = Tenant::new("expiry-requests");
    let _operator = t.operator();
    let end = Timestamp::from_second(Timestamp::now().as_second() + 30).unwrap();
    issue(&t, GRANTS, &json!({"deadlineTime": end.to_string()}));
    let mark = t.world.plane.audit_mark().unwrap();
    for n in 0..GRANTS {
        t.reason(&format!("dg/g{n}"), "Expired");
    }
    let ended = requests(&t, mark);
    let count = |verb: &str, resource: &str| {
        let is_such = |e: &&AuditEvent| (e.verb(), e.resource()) == (verb, resource);
        ended.iter().filter(is_such).count()
    };
    assert_eq!(count("delete", "secrets"), GRANTS, "{:?}", uris(&ended));
    assert_eq!(count("patch", "downloadgrants"), GRANTS, "{:?}", uris(&ended));
    // The resync interval of ten minutes allows one read in this time.
    assert!(count("get", "secrets") <= 1, "{:?}", uris(&ended));
}
