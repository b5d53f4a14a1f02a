//! Tests of fairness: if the grants of one or several namespaces flood the operator and their store does not answer,
//! other namespaces must not wait.

mod stalled;

use valet_test_support::world;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, S3Server, eventually};
use world::{SOON, Tenant, VALET, WORLD, with_reason};

/// The number of grants in the flood: ten times as many as can be reconciled at one time.
const FLOOD: usize = 320;
/// The number of grants of the quiet namespace. They are created one after another.
const CALM: usize = 30;
/// How many reconciles of the flood may end while a grant of the quiet namespace waits. A lower number shows, on a
/// slow machine as well, that the grant did not wait behind the flood.
const AHEAD: u64 = FLOOD as u64 / 4;
/// The time limit for the whole flood. Each request to the store takes 5 s to fail.
const FLOODED: Duration = Duration::from_secs(300);

/// Each test runs an operator for all namespaces, so the tests must not run at the same time.
static ALONE: Mutex<()> = Mutex::new(());

/// Starts an operator for all namespaces.
fn operator(args: &[&str]) -> Operator {
    let options = OperatorOptions {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..OperatorOptions::default()
    };
    Operator::start(&VALET, &WORLD.plane, &options).expect("the operator starts")
}

/// The number of the tenant's UploadGrants that are issued.
fn issued(t: &Tenant) -> usize {
    with_reason(t, "ug", "Issued").len()
}

/// An UploadGrant for the store of another tenant.
fn of_store(t: &Tenant, name: &str, owner: &Tenant) -> Value {
    let store = json!({"storeRef": {"kind": "ClusterObjectStore", "name": owner.name()}});
    t.grant("UploadGrant", name, store)
}

/// The number of polls of a store, successful or not. A reconcile of a grant whose store does not answer ends with a
/// failed poll.
fn polls(operator: &Operator, store: &str) -> u64 {
    let text = operator.metrics().expect("the operator answers");
    let of_store = format!("store=\"{store}\"");
    text.lines()
        .filter(|line| line.starts_with("valet_store_polls_total") && line.contains(&of_store))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn flood_of_grants_in_one_namespace_does_not_delay_another() {
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
    stays_calm(&quiet, || polls(&operator, loud.name()));
    assert_eq!(issued(&loud), 1, "the flood ended before the measurement");

    // Every queued grant is reconciled in the end.
    s3.resume();
    eventually(FLOODED, "all grants of the flood to be reconciled", || {
        (issued(&loud) == FLOOD + 1).then_some(())
    });
}

/// Checks that grants of the quiet namespace are issued before most of the flood was reconciled once. Prints the
/// times.
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
                "{ahead} reconciles of the flood ended before {name} was issued, after {took:?}"
            );
            took
        })
        .collect();
    times.sort();
    let (median, worst) = (times[CALM / 2], times[CALM - 1]);
    eprintln!("with {FLOOD} waiting grants: median {median:?}, maximum {worst:?} of {CALM} grants");
}

/// The number of namespaces that share the store without an answer. Together they may use more than all concurrent
/// reconciles.
const SHARERS: usize = 5;

#[test]
fn unresponsive_shared_store_does_not_delay_grants_of_other_stores() {
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
    stays_calm(&quiet, || polls(&operator, owner.name()));

    // Every queued grant is reconciled in the end, and the namespaces are served in turn.
    s3.resume();
    let mut seen = vec![0; SHARERS];
    eventually(FLOODED, "all grants of the flood to be reconciled", || {
        let now: Vec<_> = loud.iter().map(issued).collect();
        let (least, most) = (now.iter().min()?, now.iter().max()?);
        if *most > FLOOD / SHARERS / 2 && seen.iter().all(|n| *n == 0) {
            seen.clone_from(&now);
            assert!(*least > 0, "one namespace is served and another is not: {now:?}");
        }
        (now.iter().sum::<usize>() == FLOOD + 1).then_some(())
    });
}

/// The number of stores without an answer in one namespace: ten times as many as one namespace may have reconciled at
/// one time.
const UNRESPONSIVE_STORES: usize = 40;

#[test]
fn unresponsive_stores_of_one_namespace_do_not_delay_others() {
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
    let unresponsive_stores: Vec<_> = (0..UNRESPONSIVE_STORES)
        .map(|n| own(&loud, &format!("tarpit-{n}"), s3.endpoint()))
        .collect();
    loud.apply(&unresponsive_stores);
    quiet.apply(&[own(&quiet, "second", quiet.world.s3.endpoint())]);
    quiet.reason_within("ostore/second", "Ready", FLOODED);
    let stores_with_condition = || with_reason(&loud, "ostore", "StoreUnreachable").len();
    let ahead = stores_with_condition();
    assert!(
        ahead < UNRESPONSIVE_STORES / 2,
        "{ahead} of {UNRESPONSIVE_STORES} stores had a condition before it"
    );
    // All other stores are also reconciled in the end.
    eventually(FLOODED, "all stores to have a condition", || {
        (stores_with_condition() == UNRESPONSIVE_STORES).then_some(())
    });
}

/// One namespace uses the whole quota of a store and has many waiting grants. The next free place goes to another
/// namespace's grant, although that grant is newer.
#[test]
fn store_quota_is_shared_fairly_between_namespaces() {
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
    eventually(SOON, "the quota to be used up", || {
        (issued_names().len() == MOST).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    quiet.apply(&[shared(&quiet, "late"), shared(&quiet, "later")]);
    quiet.reason("ug/late", "TooManyGrants");
    quiet.reason("ug/later", "TooManyGrants");
    for name in ["late", "later"] {
        let one = issued_names().into_iter().next().expect("at least one grant is issued");
        loud.kubectl(&["delete", "ug", &one]);
        // The first can be either grant, because both were created in the same second.
        eventually(SOON, "a credential for the namespace with fewer grants", || {
            (issued(&quiet) >= if name == "late" { 1 } else { 2 }).then_some(())
        });
        assert!(
            issued_names().len() + issued(&quiet) <= MOST,
            "more live grants than the quota"
        );
    }
    // Now both namespaces have two live grants, so the oldest waiting grant is next.
    let one = issued_names().into_iter().next().expect("at least one grant is issued");
    loud.kubectl(&["delete", "ug", &one]);
    eventually(SOON, "the next grant of the namespace with many grants", || {
        (issued_names().len() == MOST - 2).then_some(())
    });
}
