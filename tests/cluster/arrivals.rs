//! How long an object is there before its grant says so, and what finding out costs the store: by asking alone. Beside it
//! stand `notifications`, for stores that say so themselves.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::world::{Tenant, says};

/// When the object comes, and the looks until one finds it: 2, 6, 14 and 30 s after the key was signed (docs/adr/0012). Seconds.
const ARRIVALS: [(u64, u64); 4] = [(1, 1), (4, 2), (10, 3), (20, 4)];

/// One HEAD before the first key of a write-once upload, and those of the schedule: not one more. The times are printed.
#[test]
fn heads_are_counted_and_come_by_the_schedule() {
    let t = Tenant::new("arrivals");
    let operator = t.operator();
    // Of its own store and nobody else's.
    let ours = format!("store=\"{}\"", t.name());
    let looks = || -> u64 {
        let text = operator.metrics().expect("the operator answers");
        text.lines()
            .filter(|line| line.starts_with("valet_store_looks_total") && line.contains(&ours))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    for (n, (seconds, expected)) in ARRIVALS.into_iter().enumerate() {
        let name = format!("g{n}");
        let before = looks();
        t.apply(&[t.grant("UploadGrant", &name, json!({}))]);
        t.reason(&format!("ug/{name}"), "Issued");
        let issued = Instant::now();
        let key = t.mount(&name);
        thread::sleep(Duration::from_secs(seconds).saturating_sub(issued.elapsed()));
        assert_eq!(key.upload(&t.file("body", b"x")).0, 200);
        let arrived = Instant::now();
        // The next look is 10 s off at most; on a machine that is busy it comes later, and is still the same.
        t.reason_within(&format!("ug/{name}"), "Completed", Duration::from_secs(60));
        let took = arrived.elapsed().as_secs_f64();
        let heads = looks() - before;
        eprintln!("arrived {seconds} s after the key: Completed {took:.1} s later, {heads} HEADs");
        assert_eq!(heads, 1 + expected, "HEADs of an object that came after {seconds} s");
    }
}

/// The store takes what was begun before the key's end. That it came is found out afterwards.
#[test]
fn an_upload_that_is_still_running_at_the_end() {
    let t = Tenant::new("running");
    let operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "slow", json!({"expirationSeconds": 6}))]);
    let key = t.mount("slow");
    let file = t.file("film", &vec![b'x'; 1_200_000]);
    let (status, said) = key.curl(&["--limit-rate", "100k", "--upload-file", file.to_str().unwrap()]);
    assert_eq!(status, 200, "{said}");
    let ended = t.reason("ug/slow", "ExpiredUnused");
    let done = t.reason_within("ug/slow", "Completed", Duration::from_secs(90));
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
