//! What an operator logs and answers while the API server is down for more than a minute.

use std::{thread, time::Duration};

use serde_json::Value;
use valet_harness::eventually;

use crate::world::{SOON, World, grant, lines, ready};

/// The number of grants. Each is reconciled every two seconds.
const GRANTS: usize = 150;

#[test]
fn outage_logs_few_warnings_and_makes_operator_unready_in_a_minute() {
    let world = World::new();
    let plane = &world.plane;
    let operator = world.operator(&["--resync-seconds=2"]);
    let options = lines(&operator, "INFO")
        .into_iter()
        .find(|line| line.contains("valet is starting"));
    let options: Value = serde_json::from_str(&options.expect("the log has the line of the start")).unwrap();
    assert_eq!(
        options["fields"]["resync_seconds"], 2,
        "the log has the options: {options}"
    );
    assert_eq!(options["fields"]["allow_private_endpoints"], "127.0.0.0/8");
    let grants: Vec<_> = (0..GRANTS).map(|n| grant(&format!("g{n}"), 3600)).collect();
    plane.apply_all(&grants).unwrap();
    for n in 0..GRANTS {
        ready(plane, &format!("g{n}"), "Issued");
    }
    assert_eq!(operator.http_get("/readyz").unwrap().0, 200);

    let before = lines(&operator, "WARN").len();
    plane.stop_apiserver();
    thread::sleep(Duration::from_secs(75));
    let warnings = lines(&operator, "WARN").split_off(before);
    eprintln!(
        "{} warnings within 75 s, {GRANTS} grants:\n{}",
        warnings.len(),
        warnings.join("\n")
    );
    // For each kind of request and error, the operator logs the first failure and then one line every 30 s.
    assert!((2..=40).contains(&warnings.len()), "{}", warnings.len());
    let counted = warnings
        .iter()
        .filter(|line| line.contains("more failures within 30 s"))
        .count();
    assert!(counted > 0, "failures that were not logged are counted");
    let (status, body) = operator.http_get("/readyz").unwrap();
    assert!(
        status == 503 && body.starts_with("the apiserver has not answered for "),
        "{status} {body}"
    );
    assert_eq!(
        operator.http_get("/livez").unwrap().0,
        200,
        "the operator stays alive, because a restart does not help"
    );

    plane.start_apiserver().unwrap();
    eventually(SOON, "the operator to be ready again", || {
        (operator.http_get("/readyz").ok()?.0 == 200).then_some(())
    });
    plane.apply(&grant("next", 600).to_string()).unwrap();
    ready(plane, "next", "Issued");
    eventually(SOON, "the log to report the end of the outage", || {
        operator
            .log_text()
            .contains("the apiserver answers again")
            .then_some(())
    });
}
