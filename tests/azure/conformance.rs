//! Tests of conformance checks on Azure Blob Storage.

use serde_json::{Value, json};
use valet::api::Capability;
use valet::{
    conformance::{ConformanceReport, Missing},
    provider::azure::{AzureBlob, Credentials, SharedKey},
    provider::{Prober, Provider},
};
use valet_harness::{
    azurite::ACCOUNT,
    fake::{Fake, Reply},
};

use crate::container::BY_KEY;

fn provider(more: Value) -> AzureBlob {
    let mut store = json!({
        "account": ACCOUNT, "container": "check", "endpoint": BY_KEY.endpoint(), "addressingStyle": "Path",
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        store[name] = value.clone();
    }
    let key = SharedKey::parse(BY_KEY.key()).expect("it is a key");
    AzureBlob::new(serde_json::from_value(store).unwrap(), Credentials::Key(key), None)
}

#[tokio::test]
async fn conformance_check_on_azurite_reports_what_it_enforces() {
    let _ = BY_KEY.create_container("check");
    // The workloads use another address and another endpoint than the operator.
    let more = json!({"ipRange": "203.0.113.7", "publicEndpoint": "https://blobs.example.com"});
    let found = provider(more).check_conformance().await;
    let enforced = [
        "WriteOnce",
        "expiry, signature, object key and method of signed PUT requests",
        "ResponseHeaders",
        "expiry, signature, object key and method of signed GET requests",
    ];
    assert_eq!(
        found,
        ConformanceReport {
            enforced: enforced.map(str::to_owned).into(),
            ..ConformanceReport::default()
        }
    );

    // Azurite takes times and permissions only from a stored access policy that the SAS names. The check finds that
    // such a SAS does not expire, so Valet reports that credentials are not enforced.
    BY_KEY.set_policies("check", &json!({"valet-1": "rcwd"})).unwrap();
    let lax = provider(json!({"storedAccessPolicy": "valet-1", "credentials": {"secretRef": {"name": "x"}}}));
    let found = lax.check_conformance().await;
    assert!(
        found
            .unenforced
            .as_ref()
            .is_some_and(|why| why.contains("a PUT request after the credential has expired")),
        "{found:?}"
    );
    assert_eq!(found.missing, [Missing::Url(Capability::WriteOnce)]);
    let can = lax.capabilities();
    assert!(!can.enforced.contains(&Capability::WriteOnce) && can.enforced.contains(&Capability::ResponseHeaders));
    // Neither check left an object behind.
    assert_eq!(BY_KEY.names("check", "").unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn conformance_check_reports_what_it_could_not_check() {
    for (reply, interrupted, says) in [
        (
            (|| Reply::Text(403, String::new())) as fn() -> Reply,
            false,
            "answered status 403",
        ),
        (|| Reply::Text(503, String::new()), true, "answered 503"),
        (|| Reply::HangUp, true, "connection to the server failed"),
    ] {
        let fake = Fake::start(move |_| reply());
        let found = provider(json!({"endpoint": fake.endpoint()})).check_conformance().await;
        assert_eq!(found.interrupted, interrupted, "{found:?}");
        assert!(found.not_tested.iter().any(|why| why.contains(says)), "{found:?}");
        assert!(found.enforced.is_empty() && found.missing.is_empty() && found.unenforced.is_none());
        // A write may have succeeded without an answer, so the check reports that an object may remain.
        assert!(found.left.is_some());
        assert!(!format!("{found:?}").contains("sig="));
    }
}
