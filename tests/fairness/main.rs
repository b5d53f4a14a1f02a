//! One namespace, or several with one store, flood the operator with grants whose store does not answer; another one must
//! not wait for that.

mod stalled;
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
use world::{SOON, Tenant, VALET, WORLD, with_reason};

/// Grants of the loud namespace: ten times as many as there are visits at one time.
const FLOOD: usize = 320;
/// Grants of the quiet one, one after the other.
const CALM: usize = 30;
/// Visits of the flood that may end while a grant of the quiet namespace waits for its key. It has not stood in line behind the
/// flood then, however long everything takes on a machine that is busy.
const AHEAD: u64 = FLOOD as u64 / 4;
/// For all of the flood, whose store takes 5 s to not answer.
const FLOODED: Duration = Duration::from_secs(300);

/// Each test has an operator for all namespaces, and the machine to itself.
static ALONE: Mutex<()> = Mutex::new(());

/// An operator for all namespaces.
fn operator(args: &[&str]) -> Operator {
    let options = OperatorOptions {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..OperatorOptions::default()
    };
    Operator::start(Path::new(VALET), &WORLD.plane, &options).expect("the operator starts")
}

/// The tenant's UploadGrants with a key.
fn issued(t: &Tenant) -> usize {
    with_reason(t, "ug", "Issued").len()
}

/// An upload to the store of another tenant.
fn of_store(t: &Tenant, name: &str, owner: &Tenant) -> Value {
    let store = json!({"storeRef": {"kind": "ClusterObjectStore", "name": owner.name()}});
    t.grant("UploadGrant", name, store)
}

/// How often the operator has looked into a store, whatever came of it: a visit to a grant whose store does not answer ends with
/// that.
fn looks(operator: &Operator, store: &str) -> u64 {
    let text = operator.metrics().expect("the operator answers");
    let of_store = format!("store=\"{store}\"");
    text.lines()
        .filter(|line| line.starts_with("valet_store_looks_total") && line.contains(&of_store))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
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
    let operator = operator(&[]);
    loud.apply(&[loud.grant("UploadGrant", "first", json!({}))]);
    quiet.apply(&[quiet.grant("UploadGrant", "first", json!({}))]);
    loud.reason("ug/first", "Issued");
    quiet.reason("ug/first", "Issued");

    s3.pause();
    let grants: Vec<_> = (0..FLOOD)
        .map(|n| loud.grant("UploadGrant", &format!("flood-{n}"), json!({})))
        .collect();
    loud.apply(&grants);
    stays_calm(&quiet, || looks(&operator, loud.name()));
    assert_eq!(issued(&loud), 1, "the flood was none");

    // None is forgotten in line.
    s3.resume();
    eventually(FLOODED, "the flood to be served", || {
        (issued(&loud) == FLOOD + 1).then_some(())
    });
}

/// Grants of the quiet namespace get their keys before most of the flood was visited once. How long that takes is printed.
fn stays_calm(quiet: &Tenant, visited: impl Fn() -> u64) {
    let mut times: Vec<_> = (0..CALM)
        .map(|n| {
            let name = format!("calm-{n}");
            let before = visited();
            quiet.apply(&[quiet.grant("UploadGrant", &name, json!({}))]);
            let began = Instant::now();
            eventually(FLOODED, "the Secret", || quiet.get(&format!("secret/{name}")));
            let (took, ahead) = (began.elapsed(), visited() - before);
            assert!(
                ahead < AHEAD,
                "{ahead} visits of the flood ended before {name} had its key, after {took:?}"
            );
            took
        })
        .collect();
    times.sort();
    let (median, worst) = (times[CALM / 2], times[CALM - 1]);
    eprintln!("beside {FLOOD} grants that wait: {median:?} in the middle, {worst:?} at worst, of {CALM}");
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
    let operator = operator(&[]);
    let shared = |t: &Tenant, name: &str| of_store(t, name, owner);
    owner.apply(&[shared(owner, "first")]);
    quiet.apply(&[quiet.grant("UploadGrant", "first", json!({}))]);
    owner.reason("ug/first", "Issued");
    quiet.reason("ug/first", "Issued");

    s3.pause();
    for t in &loud {
        let grants: Vec<_> = (0..FLOOD / SHARERS).map(|n| shared(t, &format!("flood-{n}"))).collect();
        t.apply(&grants);
    }
    stays_calm(&quiet, || looks(&operator, owner.name()));

    // None is forgotten in line, and no namespace waits for the end of another one's.
    s3.resume();
    let mut seen = vec![0; SHARERS];
    eventually(FLOODED, "the flood to be served", || {
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
    let _operator = operator(&["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"]);
    quiet.apply(&[own(&quiet, "first", quiet.world.s3.endpoint())]);
    quiet.reason("ostore/first", "Ready");

    s3.pause();
    let tarpits: Vec<_> = (0..TARPITS)
        .map(|n| own(&loud, &format!("tarpit-{n}"), s3.endpoint()))
        .collect();
    loud.apply(&tarpits);
    quiet.apply(&[own(&quiet, "second", quiet.world.s3.endpoint())]);
    quiet.reason_within("ostore/second", "Ready", FLOODED);
    let told = || with_reason(&loud, "ostore", "StoreUnreachable").len();
    let ahead = told();
    assert!(ahead < TARPITS / 2, "{ahead} of {TARPITS} stores were told before it");
    // And none of the others is forgotten.
    eventually(FLOODED, "all of them to be told", || (told() == TARPITS).then_some(()));
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
    let _operator = operator(&[]);
    let shared = |t: &Tenant, name: &str| of_store(t, name, &loud);
    loud.apply(&(0..20).map(|n| shared(&loud, &format!("g{n:02}"))).collect::<Vec<_>>());
    let issued_names = || with_reason(&loud, "ug", "Issued");
    eventually(SOON, "the places to be taken", || {
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
        eventually(SOON, "a key for the namespace that has fewer", || {
            (issued(&quiet) >= if name == "late" { 1 } else { 2 }).then_some(())
        });
        assert!(issued_names().len() + issued(&quiet) <= MOST, "more than may be");
    }
    // Two and two: now it is the turn of the oldest.
    let one = issued_names().into_iter().next().expect("one has a key");
    loud.kubectl(&["delete", "ug", &one]);
    eventually(SOON, "the next of the many", || {
        (issued_names().len() == MOST - 2).then_some(())
    });
}
