//! Limits the number of memory allocations in the code that runs for each grant. In a profile of the operator, a fifth
//! of its CPU time is memory allocation. The number of allocations is the same on each machine, so a test can compare
//! it with a limit. A time would differ.

use serde_json::json;
use valet::{
    api::DownloadGrant,
    core::{
        Facts, GrantFacts, QuotaFact, RememberedSecret, SecretFact, Settings, Step, StoreFact, decide,
        record::KnownStatus,
    },
};
use valet_test_support::grants::{at, download, rule, store};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Runs `work` and returns its result and its number of allocations.
fn count<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = dhat::HeapStats::get().total_blocks;
    let result = work();
    (result, dhat::HeapStats::get().total_blocks - before)
}

/// A grant as the apiserver sends it after Valet has issued its credential.
fn issued_grant() -> String {
    let condition = |type_: &str, message: &str| {
        json!({
            "type": type_, "status": "True", "reason": "Issued", "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        })
    };
    let grant = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "DownloadGrant",
        "metadata": {
            "name": "avatar-42", "namespace": "web", "uid": "949019e8-52ae-424a-ae04-7fafd36e178f",
            "resourceVersion": "396", "generation": 1, "creationTimestamp": "2027-01-15T08:00:00Z",
        },
        "spec": {
            "storeRef": {"kind": "ClusterObjectStore", "name": "media"}, "key": "tenants/web/users/42/avatar.png",
            "expirationSeconds": 300, "mode": "Url",
        },
        "status": {
            "observedGeneration": 1, "expirationSeconds": 300, "issuedTime": "2027-01-15T08:00:00Z",
            "expirationTime": "2027-01-15T08:05:00Z",
            "binding": {"name": "avatar-42", "expirationTime": "2027-01-15T08:05:00Z"},
            "recordSignature": "+W8t8aytubXEOV7/djTUWpz71BXJLv5ITP+uLG5ImpQ=",
            "conditions": [
                condition("Ready", "the download credential is in Secret avatar-42 until 2027-01-15T08:05:00Z"),
                condition("Active", "the credential can be used"),
            ],
        },
    });
    grant.to_string()
}

#[test]
fn parsing_and_deciding_need_few_allocations() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let text = issued_grant();
    // The first call also prepares tables that live as long as the process.
    let parse = || serde_json::from_str::<DownloadGrant>(&text).unwrap();
    let facts_of = |grant: &DownloadGrant| GrantFacts::with_broken_rules(grant, vec![]);
    drop(facts_of(&parse()));
    let (grant, parsing) = count(parse);
    let (live, reading) = count(|| facts_of(&grant));

    let mut facts = Facts::new(download(), Settings::default());
    facts.store = StoreFact::Usable(store([rule()]));
    facts.secret = SecretFact::Absent;
    facts.quota = QuotaFact::Given;
    drop(decide(&facts, at(1)));
    let (step, issuing) = count(|| decide(&facts, at(1)));
    assert!(matches!(step, Step::Publish(..)), "{step:?}");

    let known = KnownStatus {
        status: grant.status.clone().unwrap(),
        is_own: true,
    };
    let mut facts = Facts::new(live.with_status(known), Settings::default());
    facts.store = StoreFact::Usable(store([rule()]));
    facts.remembered_secret = Some(RememberedSecret {
        read_at: at(600),
        seen_at: at(0),
        version: None,
    });
    drop(decide(&facts, at(2)));
    let (step, waiting) = count(|| decide(&facts, at(2)));
    assert!(matches!(step, Step::Rest { until: Some(_) }), "{step:?}");

    // If a limit is exceeded, find the new allocations, or raise the limit in a commit that says why.
    for (what, allocations, limit) in [
        ("parsing a grant", parsing, 20),
        ("copying the facts from a grant", reading, 6),
        ("the decision to issue a credential", issuing, 48),
        ("the decision to wait", waiting, 96),
    ] {
        assert!(
            allocations > 0 && allocations <= limit,
            "{what} needs {allocations} allocations, not at most {limit}"
        );
        println!("{what}: {allocations}");
    }
}
