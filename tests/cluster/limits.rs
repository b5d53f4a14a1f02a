//! Tests of the limits on live grants and on concurrent requests to a store.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{
    AuditMark, eventually,
    fake::{Asked, Fake, Reply},
};

use crate::world::{SOON, Tenant, condition, says, with_reason};

/// A store with these values of `maxLiveGrants` in its access rule and in its spec.
fn limited(t: &Tenant, of_rule: Option<u32>, of_store: Option<u32>) -> Value {
    let mut store = t.store();
    if let Some(most) = of_rule {
        store["spec"]["access"][0]["maxLiveGrants"] = json!(most);
    }
    if let Some(most) = of_store {
        store["spec"]["limits"] = json!({"maxLiveGrants": most});
    }
    store
}

/// Creates the grants more than one second apart, so that their creation timestamps differ.
fn one_after_the_other(t: &Tenant, kind: &str, names: &[&str], spec: &Value) {
    for name in names {
        t.apply(&[t.grant(kind, name, spec.clone())]);
        thread::sleep(Duration::from_millis(1050));
    }
}

/// With `maxLiveGrants: 2` a third grant waits until one of the first two is deleted, completed, expired or
/// suspended. Valet writes nothing to the grants that continue to wait.
#[test]
fn grant_over_quota_waits_until_another_grant_ends() {
    let t = Tenant::new("places");
    t.apply(&[limited(&t, Some(2), None)]);
    let operator = t.operator();
    one_after_the_other(&t, "DownloadGrant", &["a", "b"], &json!({}));
    t.reason("dg/a", "Issued");
    t.reason("dg/b", "Issued");
    one_after_the_other(&t, "UploadGrant", &["c", "d"], &json!({}));
    one_after_the_other(&t, "DownloadGrant", &["e", "f"], &json!({}));
    let waiting = t.reason("ug/c", "TooManyGrants");
    assert_eq!(says(&waiting, "Active"), "False TooManyGrants");
    assert_eq!(t.kstatus(&waiting), "InProgress");
    let message = condition(&waiting, "Ready").unwrap()["message"].as_str().unwrap();
    let want = format!(
        "ClusterObjectStore {} allows at most 2 live grants for namespace {}",
        t.name(),
        t.name()
    );
    assert!(message.starts_with(&want), "{message}");
    t.reason("dg/f", "TooManyGrants");
    assert!(t.get("secret/c").is_none());

    // A live grant is deleted. The oldest waiting grant is issued, and Valet writes to no other grant.
    let mark = t.mark();
    t.kubectl(&["delete", "dg/a"]);
    t.reason("ug/c", "Issued");
    thread::sleep(Duration::from_secs(2));
    let mut written: Vec<_> = t
        .written(mark)
        .iter()
        .map(|e| format!("{} {} {}", e.verb(), e.resource(), e.name()))
        .collect();
    written.sort();
    assert_eq!(written, ["create secrets c", "patch uploadgrants c"]);

    // A live grant completes, and its credential no longer counts.
    assert_eq!(t.mount("c").upload(&t.file("body", b"x")).0, 200);
    t.reason("ug/c", "Completed");
    t.reason("ug/d", "Issued");

    // While no operator runs, a live grant and a waiting grant are deleted. The grant that waited longest is still
    // the next one.
    operator.kill();
    t.kubectl(&["delete", "dg/b", "dg/e"]);
    one_after_the_other(&t, "DownloadGrant", &["0-younger"], &json!({"expirationSeconds": 3}));
    let _operator = t.operator();
    t.reason("dg/f", "Issued");
    t.reason("dg/0-younger", "TooManyGrants");

    // A live grant is suspended, and the next grant is issued. When that grant expires, the first one is issued
    // again.
    t.patch("ug/d", &json!({"spec": {"suspend": true}}));
    t.reason("dg/0-younger", "Issued");
    t.patch("ug/d", &json!({"spec": {"suspend": false}}));
    t.reason("ug/d", "TooManyGrants");
    t.reason("dg/0-younger", "Expired");
    t.reason("ug/d", "Issued");

    // The limit becomes lower. Existing credentials stay, and no grant is issued.
    t.apply(&[limited(&t, Some(1), None), t.grant("DownloadGrant", "g", json!({}))]);
    t.reason("dg/g", "TooManyGrants");
    assert_eq!(with_reason(&t, "ug,dg", "Issued"), ["d", "f"]);
    t.kubectl(&["delete", "dg/f"]);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(with_reason(&t, "ug,dg", "Issued"), ["d"]);
    // The limit is removed. All waiting grants are issued.
    t.apply(&[t.store()]);
    t.reason("dg/g", "Issued");
}

/// The number of grants.
const CROWD: usize = 40;
/// The number of grants that may be live at the same time.
const MOST: usize = 5;

/// With more grants than the limit, the number of live grants never exceeds the limit, and every grant is issued
/// once. Valet does not write to all waiting grants whenever one is issued.
#[test]
fn many_grants_never_exceed_the_quota() {
    let t = Tenant::new("crowd");
    let mark = t.mark();
    let _operator = t.operator();
    assert!(crowd(&t, mark) <= MOST);
    // Each grant needs at most five writes: one for the waiting condition, two for the credential, two for the
    // expiry.
    let written = t.written(mark).len();
    assert!(written <= 5 * CROWD, "{written} writes");
}

/// Two operators run at the same time, which is not a supported setup. Each stays within the limit as far as it
/// knows, and both count in the same order.
#[test]
fn many_grants_and_two_operators_exceed_the_quota_at_most_twofold() {
    let t = Tenant::new("crowds");
    let mark = t.mark();
    let _operators = [t.operator(), t.operator()];
    assert!(crowd(&t, mark) <= 2 * MOST);
}

/// Creates the grants, waits until all have expired, and returns the highest number of live grants. A grant is live
/// from the request that creates its Secret until the request that deletes the Secret, or until the credential
/// expires.
fn crowd(t: &Tenant, mark: AuditMark) -> usize {
    t.apply(&[limited(t, None, Some(MOST as u32))]);
    let grants: Vec<_> = (0..CROWD)
        .map(|n| t.grant("DownloadGrant", &format!("g{n:02}"), json!({"expirationSeconds": 4})))
        .collect();
    t.apply(&grants);
    eventually(Duration::from_secs(120), "every grant to be issued", || {
        (with_reason(t, "ug,dg", "Expired").len() == CROWD).then_some(())
    });
    let list = t.kubectl(&["get", "dg", "--output", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let time = |v: &serde_json::Value| v.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let ends: HashMap<&str, _> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| {
            (
                g["metadata"]["name"].as_str().unwrap(),
                time(&g["status"]["expirationTime"]),
            )
        })
        .collect();
    // If two changes have the same time, the end of a grant is counted before the start of another.
    let mut changes = Vec::new();
    for event in t.world.plane.audit_since(mark).unwrap() {
        if event.namespace() != t.name() || event.resource() != "secrets" || event.code() >= 300 {
            continue;
        }
        let asked = time(&event.json["requestReceivedTimestamp"]);
        match event.verb() {
            "create" => changes.push((asked, 1)),
            "delete" => changes.push((asked.min(ends[event.name()]), -1)),
            _ => {}
        }
    }
    changes.sort_unstable();
    assert_eq!(changes.len(), 2 * CROWD, "each had one Secret");
    let (mut out, mut peak) = (0_i32, 0);
    for (_, change) in changes {
        out += change;
        peak = peak.max(out);
    }
    assert_eq!(out, 0);
    eprintln!("{peak} live credentials at one time; the limit is {MOST}");
    usize::try_from(peak).unwrap()
}

/// A store that has no objects and enforces write-once. It answers requests for objects of grants after a delay, and
/// records how many of them ran at the same time.
fn slow_store(delay: Duration) -> (Fake, Arc<AtomicUsize>) {
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let most = peak.clone();
    let fake = Fake::start(move |asked: &Asked| {
        if asked.target.contains("/tenants/") {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(delay);
            now.fetch_sub(1, Ordering::SeqCst);
        }
        match asked.header("if-none-match") {
            Some(_) => Reply::Text(412, "<Error><Code>PreconditionFailed</Code></Error>".into()),
            None => Reply::Text(404, "<Error><Code>NoSuchKey</Code></Error>".into()),
        }
    });
    (fake, most)
}

/// Valet sends a slow store at most as many concurrent requests as its spec allows, and every grant is issued.
#[test]
fn slow_store_gets_limited_concurrent_requests() {
    const GRANTS: usize = 24;
    const MOST: usize = 3;
    let t = Tenant::new("slow");
    let (fake, peak) = slow_store(Duration::from_millis(300));
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(fake.endpoint());
    store["spec"]["s3"]["unsignedHeaders"] = json!("Tolerate");
    store["spec"]["limits"] = json!({"maxRequestsInFlight": MOST});
    t.apply(&[store]);
    let _operator = t.operator();
    t.reason_within(&format!("costore/{}", t.name()), "Ready", SOON);
    peak.store(0, Ordering::SeqCst);
    let grants: Vec<_> = (0..GRANTS)
        .map(|n| t.grant("UploadGrant", &format!("g{n}"), json!({})))
        .collect();
    let began = Instant::now();
    t.apply(&grants);
    eventually(Duration::from_secs(60), "all grants to be issued", || {
        (with_reason(&t, "ug,dg", "Issued").len() == GRANTS).then_some(())
    });
    let took = began.elapsed();
    let peak = peak.load(Ordering::SeqCst);
    // One more request is possible, because Valet can probe the store at the same time.
    assert!((2..=MOST + 1).contains(&peak), "{peak} concurrent requests");
    assert!(
        took > Duration::from_millis(300) * (GRANTS / (MOST + 1)) as u32,
        "{took:?}"
    );
}

/// If a grant is deleted while Valet issues its credential, its reservation is released and the next grant is issued.
#[test]
fn grant_deleted_during_issue_releases_its_reservation() {
    let t = Tenant::new("gone");
    let (fake, _) = slow_store(Duration::from_secs(2));
    let mut store = limited(&t, Some(1), None);
    store["spec"]["s3"]["endpoint"] = json!(fake.endpoint());
    store["spec"]["s3"]["unsignedHeaders"] = json!("Tolerate");
    t.apply(&[store]);
    let _operator = t.operator();
    t.reason_within(&format!("costore/{}", t.name()), "Ready", SOON);
    t.apply(&[t.grant("UploadGrant", "first", json!({}))]);
    // The grant has its reservation, and Valet waits for the HEAD response of the store.
    thread::sleep(Duration::from_millis(700));
    t.kubectl(&["delete", "ug/first", "--wait=false"]);
    t.apply(&[t.grant("UploadGrant", "second", json!({}))]);
    t.reason("ug/second", "Issued");
}
