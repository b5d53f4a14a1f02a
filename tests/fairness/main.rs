//! One namespace floods the operator with grants whose store does not answer; another one must not wait for that.

#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, S3Server, eventually};
use world::{Tenant, VALET, condition};

/// Grants of the loud namespace: ten times as many as there are visits at one time.
const FLOOD: usize = 320;
/// Grants of the quiet one, one after the other.
const CALM: usize = 30;
/// From apply's return to the Secret, by kubectl. A visit to the loud store takes 5 s, so ten rounds of them take 50.
const BOUND: Duration = Duration::from_secs(10);

fn issued(t: &Tenant) -> usize {
    let list: Value = serde_json::from_str(&t.kubectl(&["get", "ug", "--output=json"])).expect("kubectl prints JSON");
    let items = list["items"].as_array().expect("a list");
    items
        .iter()
        .filter(|g| condition(g, "Ready").is_some_and(|c| c["reason"] == "Issued"))
        .count()
}

#[test]
fn a_flood_in_one_namespace_is_not_felt_in_another() {
    let (loud, quiet) = (Tenant::new("loud"), Tenant::new("quiet"));
    let s3 = S3Server::start(&loud.world.tools).expect("the S3 server starts");
    s3.create_bucket(loud.name()).expect("a bucket can be made");
    let mut store = loud.store();
    store["spec"]["s3"]["endpoint"] = json!(s3.endpoint());
    loud.apply(&[loud.credentials(s3.access_key(), s3.secret_key()), store]);
    let options = OperatorOptions::default();
    let _operator = Operator::start(Path::new(VALET), &loud.world.plane, &options).expect("the operator starts");
    loud.apply(&[loud.grant("UploadGrant", "first", json!({}))]);
    quiet.apply(&[quiet.grant("UploadGrant", "first", json!({}))]);
    loud.reason("ug/first", "Issued");
    quiet.reason("ug/first", "Issued");

    s3.pause();
    let grants: Vec<_> = (0..FLOOD)
        .map(|n| loud.grant("UploadGrant", &format!("flood-{n}"), json!({})))
        .collect();
    loud.apply(&grants);
    let mut times: Vec<_> = (0..CALM)
        .map(|n| {
            let name = format!("calm-{n}");
            quiet.apply(&[quiet.grant("UploadGrant", &name, json!({}))]);
            let began = Instant::now();
            eventually(Duration::from_secs(120), "the Secret", || {
                quiet.get(&format!("secret/{name}"))
            });
            began.elapsed()
        })
        .collect();
    times.sort();
    let (median, worst) = (times[CALM / 2], times[CALM - 1]);
    eprintln!("beside {FLOOD} grants that wait: {median:?} in the middle, {worst:?} at worst, of {CALM}");
    assert!(worst < BOUND, "{times:?}");
    assert_eq!(issued(&loud), 1, "the flood was none");

    // None is forgotten in line.
    s3.resume();
    eventually(Duration::from_secs(180), "the flood to be served", || {
        (issued(&loud) == FLOOD + 1).then_some(())
    });
}
