//! Tests of how soon Valet finds an uploaded object by polling, and how many HEAD requests that costs. The tests in
//! `notifications` cover stores that send notifications.

use std::{
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::json;

use crate::world::{SOON, Tenant, says};

/// When each object is uploaded, in seconds after the URL was signed.
const ARRIVALS: [u64; 4] = [1, 4, 10, 20];

/// When Valet polls, in seconds after the URL was signed (docs/adr/0012). The tests in tests/decide check the exact
/// times.
const POLLS: [f64; 6] = [2.0, 6.0, 14.0, 30.0, 62.0, 122.0];

/// A write-once upload costs one HEAD request before its first URL, and then the polls of the schedule until one
/// finds the object. On a busy machine the upload or a poll can be late, so fewer polls are also accepted. The test
/// prints the times.
#[test]
fn head_requests_follow_the_poll_schedule() {
    let t = Tenant::new("arrivals");
    let operator = t.operator();
    // Only the requests to this test's store count.
    let ours = format!("store=\"{}\"", t.name());
    let head_requests = || -> u64 {
        let text = operator.metrics().expect("the operator answers");
        text.lines()
            .filter(|line| line.starts_with("valet_store_polls_total") && line.contains(&ours))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    for (n, seconds) in ARRIVALS.into_iter().enumerate() {
        let name = format!("g{n}");
        let before = head_requests();
        t.apply(&[t.grant("UploadGrant", &name, json!({}))]);
        let grant = t.reason(&format!("ug/{name}"), "Issued");
        let issued: Timestamp = grant["status"]["issuedTime"]
            .as_str()
            .expect("it was issued")
            .parse()
            .expect("a time");
        let key = t.mount(&name);
        let rest = (issued + Duration::from_secs(seconds)).duration_since(Timestamp::now());
        thread::sleep(Duration::try_from(rest).unwrap_or_default());
        assert_eq!(key.upload(&t.file("body", b"x")).0, 200);
        let (arrived, after) = (Instant::now(), Timestamp::now().duration_since(issued).as_secs_f64());
        t.reason_within(&format!("ug/{name}"), "Completed", 2 * SOON);
        let took = arrived.elapsed().as_secs_f64();
        let heads = head_requests() - before;
        eprintln!("arrived {seconds} s after the issue: Completed {took:.1} s later, {heads} HEAD requests");
        // The polls that can have been too early, and the poll that found the object.
        let due = POLLS.iter().filter(|poll| **poll < after).count() as u64 + 1;
        assert!(
            (2..=1 + due).contains(&heads),
            "{heads} HEAD requests for an object that arrived after {after:.1} s; the schedule has at most {}",
            1 + due
        );
    }
}

/// The store accepts an upload that started before the URL expired. Valet finds the object after the expiry and
/// completes the grant.
#[test]
fn upload_that_ends_after_expiry_completes_grant() {
    let t = Tenant::new("running");
    let operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "slow", json!({"expirationSeconds": 6}))]);
    let key = t.mount("slow");
    let file = t.file("film", &vec![b'x'; 1_200_000]);
    let (status, said) = key.curl(&["--limit-rate", "100k", "--upload-file", file.to_str().unwrap()]);
    assert_eq!(status, 200, "{said}");
    let ended = t.reason("ug/slow", "ExpiredUnused");
    let done = t.reason_within("ug/slow", "Completed", 3 * SOON);
    assert_eq!(says(&done, "Completed"), "True Completed");
    assert_eq!(done["status"]["object"]["size"], 1_200_000);
    assert_eq!(done["status"]["finishedTime"], ended["status"]["finishedTime"]);
    assert_eq!(t.kstatus(&done), "Current");
    assert!(t.get("secret/slow").is_none());
    let counted = operator.metrics().unwrap();
    for reason in ["ExpiredUnused", "Completed"] {
        let line = format!("valet_grants_finished_total{{kind=\"UploadGrant\",reason=\"{reason}\"}} 1");
        assert!(counted.contains(&line), "{line}");
    }
}
