//! One namespace, or several with one store, flood the operator with grants whose store does not answer; another one must
//! not wait for that.

#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
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

/// Each test has an operator for all namespaces, and the machine to itself.
static ALONE: Mutex<()> = Mutex::new(());

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
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
    stays_calm(&quiet);
    assert_eq!(issued(&loud), 1, "the flood was none");

    // None is forgotten in line.
    s3.resume();
    eventually(Duration::from_secs(180), "the flood to be served", || {
        (issued(&loud) == FLOOD + 1).then_some(())
    });
}

/// Grants of the quiet namespace get their keys in time.
fn stays_calm(quiet: &Tenant) {
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
}

/// Namespaces that share the store that does not answer: together they have more turns than there are visits.
const SHARERS: usize = 5;

#[test]
fn a_store_that_does_not_answer_is_not_felt_by_those_who_have_another() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let quiet = Tenant::new("calm");
    let loud: Vec<_> = (0..SHARERS).map(|n| Tenant::new(&format!("sharer-{n}"))).collect();
    let owner = &loud[0];
    let s3 = S3Server::start(&owner.world.tools).expect("the S3 server starts");
    s3.create_bucket(owner.name()).expect("a bucket can be made");
    let mut store = owner.store();
    store["spec"]["s3"]["endpoint"] = json!(s3.endpoint());
    store["spec"]["access"][0]["namespaces"]["names"] = loud.iter().map(Tenant::name).collect();
    owner.apply(&[owner.credentials(s3.access_key(), s3.secret_key()), store]);
    let options = OperatorOptions::default();
    let _operator = Operator::start(Path::new(VALET), &owner.world.plane, &options).expect("the operator starts");
    let shared = |t: &Tenant, name: &str| {
        t.grant(
            "UploadGrant",
            name,
            json!({"storeRef": {"kind": "ClusterObjectStore", "name": owner.name()}}),
        )
    };
    owner.apply(&[shared(owner, "first")]);
    quiet.apply(&[quiet.grant("UploadGrant", "first", json!({}))]);
    owner.reason("ug/first", "Issued");
    quiet.reason("ug/first", "Issued");

    s3.pause();
    for t in &loud {
        let grants: Vec<_> = (0..FLOOD / SHARERS).map(|n| shared(t, &format!("flood-{n}"))).collect();
        t.apply(&grants);
    }
    stays_calm(&quiet);

    // None is forgotten in line, and no namespace waits for the end of another one's.
    s3.resume();
    let mut seen = vec![0; SHARERS];
    eventually(Duration::from_secs(180), "the flood to be served", || {
        let now: Vec<_> = loud.iter().map(issued).collect();
        let (least, most) = (now.iter().min()?, now.iter().max()?);
        if *most > FLOOD / SHARERS / 2 && seen.iter().all(|n| *n == 0) {
            seen.clone_from(&now);
            assert!(*least > 0, "one is served, another one not at all: {now:?}");
        }
        (now.iter().sum::<usize>() == FLOOD + 1).then_some(())
    });
}

/// Stores of one namespace that do not answer, ten times as many as are visited at one time of a namespace.
const TARPITS: usize = 40;

#[test]
fn stores_that_do_not_answer_hold_up_nobody_elses() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (loud, quiet) = (Tenant::new("tarpits"), Tenant::new("beside"));
    let s3 = S3Server::start(&loud.world.tools).expect("the S3 server starts");
    let own = |t: &Tenant, name: &str, endpoint: String| {
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore",
            "metadata": {"name": name, "namespace": t.name()},
            "spec": {"s3": {
                "bucket": t.name(), "region": t.world.s3.region(), "endpoint": endpoint, "addressingStyle": "Path",
                "credentials": {"secretRef": {"name": t.name()}},
            }},
        })
    };
    for t in [&loud, &quiet] {
        let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
        credentials["metadata"]["namespace"] = json!(t.name());
        t.apply(&[credentials]);
    }
    let options = OperatorOptions {
        args: vec!["--allow-private-endpoints=127.0.0.0/8".into()],
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(Path::new(VALET), &loud.world.plane, &options).expect("the operator starts");
    quiet.apply(&[own(&quiet, "first", quiet.world.s3.endpoint())]);
    quiet.reason("ostore/first", "Ready");

    s3.pause();
    let tarpits: Vec<_> = (0..TARPITS)
        .map(|n| own(&loud, &format!("tarpit-{n}"), s3.endpoint()))
        .collect();
    loud.apply(&tarpits);
    quiet.apply(&[own(&quiet, "second", quiet.world.s3.endpoint())]);
    let began = Instant::now();
    quiet.reason_within("ostore/second", "Ready", Duration::from_secs(120));
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    // And none of the others is forgotten.
    eventually(Duration::from_secs(180), "all of them to be told", || {
        let list: Value = serde_json::from_str(&loud.kubectl(&["get", "ostore", "--output=json"])).ok()?;
        let told = |s: &Value| condition(s, "Ready").is_some_and(|c| c["reason"] == "StoreUnreachable");
        list["items"].as_array()?.iter().all(told).then_some(())
    });
}

/// A store whose places one namespace has taken, with many more of its grants in line: the next place is for another
/// namespace's first grant, which came last.
#[test]
fn the_places_of_a_store_are_shared_between_namespaces() {
    const MOST: usize = 4;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (loud, quiet) = (Tenant::new("many"), Tenant::new("few"));
    let mut store = loud.store();
    store["spec"]["access"][0]["namespaces"]["names"] = json!([loud.name(), quiet.name()]);
    store["spec"]["limits"] = json!({"maxLiveGrants": MOST});
    loud.apply(&[store]);
    let options = OperatorOptions::default();
    let _operator = Operator::start(Path::new(VALET), &loud.world.plane, &options).expect("the operator starts");
    let shared = |t: &Tenant, name: &str| {
        t.grant(
            "UploadGrant",
            name,
            json!({"storeRef": {"kind": "ClusterObjectStore", "name": loud.name()}}),
        )
    };
    loud.apply(&(0..20).map(|n| shared(&loud, &format!("g{n:02}"))).collect::<Vec<_>>());
    let issued_names = || -> Vec<String> {
        let list: Value = serde_json::from_str(&loud.kubectl(&["get", "ug", "--output=json"])).expect("JSON");
        let items = list["items"].as_array().expect("a list").iter();
        let has_key = |g: &&Value| condition(g, "Ready").is_some_and(|c| c["reason"] == "Issued");
        items
            .filter(has_key)
            .filter_map(|g| Some(g["metadata"]["name"].as_str()?.to_owned()))
            .collect()
    };
    eventually(Duration::from_secs(60), "the places to be taken", || {
        (issued_names().len() == MOST).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    quiet.apply(&[shared(&quiet, "late"), shared(&quiet, "later")]);
    quiet.reason("ug/late", "TooManyGrants");
    quiet.reason("ug/later", "TooManyGrants");
    for name in ["late", "later"] {
        let one = issued_names().into_iter().next().expect("one has a key");
        loud.kubectl(&["delete", "ug", &one]);
        // Either of the two: they were made in the same second.
        eventually(
            Duration::from_secs(30),
            "a key for the namespace that has fewer",
            || (issued(&quiet) >= if name == "late" { 1 } else { 2 }).then_some(()),
        );
        assert!(issued_names().len() + issued(&quiet) <= MOST, "more than may be");
    }
    // Two and two: now it is the turn of the oldest.
    let one = issued_names().into_iter().next().expect("one has a key");
    loud.kubectl(&["delete", "ug", &one]);
    eventually(Duration::from_secs(30), "the next of the many", || {
        (issued_names().len() == MOST - 2).then_some(())
    });
}
