//! Several namespaces, each with a store of its own that is slow in every way that a store can be, and asks for a check with
//! real keys. Another namespace's grants for the platform's store must not wait for that.

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

/// Just below what one request may take.
const SLOW: Duration = Duration::from_millis(4300);
/// Namespaces that attack: more of them together than have a part of all turns.
const LOUD: usize = 6;
/// Grants of each.
const GRANTS: usize = 12;
/// Grants of the other namespace, one after the other.
const CALM: usize = 100;
/// What is promised to them (99 of 100).
const PROMISE: Duration = Duration::from_secs(2);
/// Requests that one store may get while this lasts, with its twelve grants and one check.
const MOST_ASKED: usize = 400;

/// Each answer takes its time.
fn slow() -> Fake {
    Fake::start(|asked| {
        thread::sleep(SLOW);
        behaves(asked)
    })
}

/// Answers at once, but lists thousands of versions that nobody wrote, and takes its time to delete each.
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

/// The namespace's own store, which is to be checked, and its grants.
fn attack(t: &Tenant, endpoint: &str) -> Vec<Value> {
    let mut credentials = t.credentials("AKID", "secret");
    credentials["metadata"]["namespace"] = json!(t.name());
    let store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore",
        "metadata": {
            "name": "own", "namespace": t.name(), "annotations": {"valetkey.dev/canary-requested-at": "now"},
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

/// How long each of these grants waits for its key, from when it is made.
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
    eventually(SOON, "the attack to begin", || {
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
    // On a machine that is busy with other things everything takes longer, also before the attack.
    let most = PROMISE.max(before[before.len() - 1] * 10);
    assert!(during[CALM * 99 / 100 - 1] < most, "{during:?}");
    // The check ends by itself, and a namespace's own grants go on after it.
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
