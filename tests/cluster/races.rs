//! Tests of multipart uploads when two operators initiate them at the same time, and when the operator is killed
//! while it initiates them.

use std::time::Duration;

use serde_json::json;
use valet_harness::eventually;

use crate::{
    multipart::{in_parts, is_released, open, parts, send},
    world::{SOON, Tenant},
};

/// If two operators initiate an upload for the same grant, the one that cannot write the Secret aborts its own
/// upload.
#[test]
fn multipart_upload_of_the_slower_operator_is_aborted() {
    let t = Tenant::new("partstwo");
    let _operators = [t.operator(), t.operator()];
    let names: Vec<_> = (0..8).map(|n| format!("g{n}")).collect();
    let grants: Vec<_> = names
        .iter()
        .map(|name| in_parts(&t, name, json!({"constraints": {"contentLength": 3}})))
        .collect();
    t.apply(&grants);
    for name in &names {
        t.reason(&format!("ug/{name}"), "Issued");
    }
    for name in &names {
        let key = t.mount(name);
        let recorded = t.get(&format!("secret/{name}")).unwrap()["metadata"]["annotations"]["valetkey.dev/upload-id"]
            .as_str()
            .unwrap()
            .to_owned();
        eventually(SOON, "one multipart upload for each grant", || {
            (open(&t, &t.key(name)) == [recorded.clone()]).then_some(())
        });
        assert_eq!(send(&t, &parts(&key)[0], b"abc"), 200);
    }
    for name in &names {
        t.reason_within(&format!("ug/{name}"), "Completed", Duration::from_secs(75));
        assert_eq!(t.stored(&t.key(name)).as_deref(), Some(&b"abc"[..]));
        is_released(&t, name);
    }
    assert_eq!(open(&t, ""), Vec::<String>::new());
}

/// If the operator is killed at different moments while it initiates multipart uploads, no upload is left in the
/// store in the end.
#[test]
fn operator_killed_during_initiation_leaves_no_multipart_upload() {
    let t = Tenant::new("partskill");
    let mut most = 0;
    for round in 0..6 {
        let operator = t.operator();
        let grants: Vec<_> = (0..4)
            .map(|n| {
                // The first grant of each round is used after the last round, so it lives longer.
                let seconds = if n == 0 { 600 } else { 25 };
                let size = json!({"constraints": {"contentLength": 3}, "expirationSeconds": seconds});
                in_parts(&t, &format!("g{round}-{n}"), size)
            })
            .collect();
        t.apply(&grants);
        // The operator is killed at a different moment in each round, from before its first request until after its
        // last.
        std::thread::sleep(Duration::from_millis(round * 25));
        operator.kill();
        most = most.max(open(&t, "").len());
    }
    let _operator = t.operator();
    for round in 0..6 {
        let key = t.mount(&format!("g{round}-0"));
        assert_eq!(send(&t, &parts(&key)[0], b"abc"), 200);
    }
    for round in 0..6 {
        for n in 0..4 {
            let name = format!("g{round}-{n}");
            if n == 0 {
                t.reason_within(&format!("ug/{name}"), "Completed", Duration::from_secs(75));
            } else {
                t.reason_within(&format!("ug/{name}"), "ExpiredUnused", Duration::from_secs(75));
            }
            is_released(&t, &name);
        }
    }
    assert!(most > 0, "the operator was killed before it initiated any upload");
    assert_eq!(open(&t, ""), Vec::<String>::new());
}
