//! Several namespaces each have a slow store and request a conformance check of it. Grants of another namespace must
//! not wait.

use std::{
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{
    eventually,
    fake::{Asked, Fake, Reply},
};

use crate::{
    ALONE, operator,
    world::{SOON, Tenant},
};

/// Slightly less than the timeout of one request.
const SLOW: Duration = Duration::from_millis(4300);
/// The number of attacking namespaces: more than can be reconciled at one time with their full share.
const LOUD: usize = 6;
/// The number of grants in each attacking namespace.
const GRANTS: usize = 12;
/// The number of grants of the other namespace. They are created one after another.
const CALM: usize = 100;
/// The longest wait that Valet promises for 99 of 100 grants.
const PROMISE: Duration = Duration::from_secs(2);
/// The largest number of requests that one slow store may receive in this test, for its twelve grants and one
/// conformance check.
const MOST_ASKED: usize = 400;

/// A store that delays every answer.
fn slow() -> Fake {
    Fake::start(|asked| {
        thread::sleep(SLOW);
        behaves(asked)
    })
}

/// A store that lists thousands of object versions that nobody wrote, and delays every delete.
fn hoarder() -> Fake {
    Fake::start(|asked| {
        if asked.method == "DELETE" {
            thread::sleep(SLOW);
        }
        if asked.method == "GET" && asked.target.contains("versions") {
            let prefix = asked.target.split("prefix=").nth(1).and_then(|p| p.split('&').next());
            let folder = prefix.unwrap_or_default().replace("%2F", "/");
            let version = |n| format!("<Version><Key>{folder}put</Key><VersionId>{n}</VersionId></Version>");
            let all: String = (0..3000).map(version).collect();
            return Reply::Text(200, format!("<ListVersionsResult>{all}</ListVersionsResult>"));
        }
        behaves(asked)
    })
}

fn behaves(asked: &Asked) -> Reply {
    let error = |status: u16, code: &str, message: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Reply::Text(status, text)
    };
    match asked.method.as_str() {
        "PUT" if asked.header("x-amz-copy-source").is_some() => {
            error(403, "AccessDenied", "headers that are not signed")
        }
        "PUT" | "POST" | "DELETE" => Reply::Text(200, String::new()),
        _ => error(404, "NoSuchKey", "there is none"),
    }
}

/// Creates the namespace's own store, with a requested conformance check, and its grants.
fn attack(t: &Tenant, endpoint: &str) -> Vec<Value> {
    let mut credentials = t.credentials("AKID", "secret");
    credentials["metadata"]["namespace"] = json!(t.name());
    let store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore",
        "metadata": {
            "name": "own", "namespace": t.name(), "annotations": {"valetkey.dev/check-requested-at": "now"},
        },
        "spec": {"s3": {
            "bucket": t.name(), "region": "us-east-1", "endpoint": endpoint, "addressingStyle": "Path",
            "credentials": {"secretRef": {"name": t.name()}},
        }},
    });
    let own = json!({"storeRef": {"kind": "ObjectStore", "name": "own"}});
    let grants = (0..GRANTS).map(|n| t.grant("UploadGrant", &format!("g{n}"), own.clone()));
    [credentials, store].into_iter().chain(grants).collect()
}

/// The time from the creation to the credential, for each of these grants.
fn times(t: &Tenant, what: &str, number: usize) -> Vec<Duration> {
    let mut times: Vec<_> = (0..number)
        .map(|n| {
            let name = format!("{what}-{n}");
            let began = Instant::now();
            t.create(&t.grant("UploadGrant", &name, json!({})))
                .expect("it can be made");
            eventually(5 * SOON, "the Secret", || t.get(&format!("secret/{name}")));
            began.elapsed()
        })
        .collect();
    times.sort();
    times
}

#[test]
fn slow_stores_of_many_namespaces_delay_no_grant_of_another_store() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let quiet = Tenant::new("victim");
    let loud: Vec<_> = (0..LOUD).map(|n| Tenant::new(&format!("stalled-{n}"))).collect();
    let fakes: Vec<_> = (0..LOUD).map(|n| if n % 2 == 0 { slow() } else { hoarder() }).collect();
    let operator = operator(&["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"]);
    let before = times(&quiet, "before", 20);

    for (t, fake) in loud.iter().zip(&fakes) {
        t.apply(&attack(t, &fake.endpoint()));
    }
    eventually(SOON, "the slow stores to receive requests", || {
        fakes.iter().all(|fake| !fake.asked().is_empty()).then_some(())
    });
    let during = times(&quiet, "during", CALM);
    eprintln!(
        "before: {:?} in the middle, {:?} at worst, of {}; beside {LOUD} slow stores: {:?} in the middle, {:?} of 99 in 100, {:?} at worst, of {CALM}",
        before[before.len() / 2],
        before[before.len() - 1],
        before.len(),
        during[CALM / 2],
        during[CALM * 99 / 100 - 1],
        during[CALM - 1],
    );
    // On a busy machine everything is slower, also before the attack.
    let most = PROMISE.max(before[before.len() - 1] * 10);
    assert!(during[CALM * 99 / 100 - 1] < most, "{during:?}");
    // The conformance check ends by itself, and the grants of the namespace are then reconciled.
    thread::sleep(Duration::from_secs(70));
    for fake in &fakes {
        let asked = fake.asked();
        assert!(asked.len() < MOST_ASKED, "{} requests", asked.len());
        let deleted = asked.iter().filter(|a| a.method == "DELETE").count();
        assert!(deleted < 100, "{deleted} were deleted");
    }
    let metrics = operator.metrics().expect("the operator answers");
    assert!(metrics.contains("valet_reconciles_stalled 0"), "{metrics}");
}
