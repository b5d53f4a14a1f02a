//! Tests that no URL is valid longer than the credentials that signed it, and that renewals end at the total time of
//! the access rule.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet_harness::{
    Operator, OperatorOptions,
    fake::{Fake, Reply},
};

use crate::world::{Tenant, VALET, condition, says};

/// A store that accepts all credentials and has no objects.
fn empty_store() -> Fake {
    Fake::start(|_| Reply::Text(404, "<Error><Code>NoSuchKey</Code></Error>".into()))
}

fn week(t: &Tenant) -> Value {
    t.grant("DownloadGrant", "week", json!({"expirationSeconds": 604_800}))
}

/// A store that uses the operator's own identity and allows credentials for a week.
fn own_identity(t: &Tenant, endpoint: &str) -> Value {
    let mut store = t.store();
    let spec = &mut store["spec"];
    spec["s3"]["endpoint"] = json!(endpoint);
    spec["s3"].as_object_mut().unwrap().remove("credentials");
    spec["access"][0]["maxExpirationSeconds"] = json!(604_800);
    store
}

fn operator_with_session(t: &Tenant, end: Option<&str>) -> Operator {
    let session = [
        ("AWS_ACCESS_KEY_ID", Some("ASIAEXAMPLE")),
        ("AWS_SECRET_ACCESS_KEY", Some("wJalr")),
        ("AWS_SESSION_TOKEN", Some("token")),
        ("AWS_CREDENTIAL_EXPIRATION", end),
    ];
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        env: session
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect(),
        ..OperatorOptions::default()
    };
    Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts")
}

fn seconds_left(grant: &Value) -> i64 {
    let end: Timestamp = grant["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    end.duration_since(Timestamp::now()).as_secs()
}

fn applied(t: &Tenant, endpoint: &str) -> Value {
    t.kubectl(&["delete", "costore", t.name()]);
    t.apply(&[own_identity(t, endpoint), week(t)]);
    t.reason("dg/week", "Issued")
}

#[test]
fn url_expires_with_session_in_operator_environment() {
    let t = Tenant::new("envsession");
    let fake = empty_store();
    let end = Timestamp::now() + SignedDuration::from_mins(20);
    let _operator = operator_with_session(&t, Some(&end.to_string()));
    let grant = applied(&t, &fake.endpoint());
    let left = seconds_left(&grant);
    assert!((1100..=1200).contains(&left), "{left}");
    assert_eq!(says(&grant, "Active"), "True ExpiryTruncated");
    let store = valet_harness::eventually(crate::world::SOON, "the store to report its credentials expiry", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        store["status"]["credentialsExpirationTime"]
            .is_string()
            .then_some(store)
    });
    let stated: Timestamp = store["status"]["credentialsExpirationTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(stated.as_second(), end.as_second());
    assert!(condition(&store, "CredentialsExpirationKnown").is_none());
}

#[test]
fn url_expires_after_15_minutes_if_session_expiry_is_unknown() {
    let t = Tenant::new("envunknown");
    let fake = empty_store();
    let _operator = operator_with_session(&t, None);
    let grant = applied(&t, &fake.endpoint());
    let left = seconds_left(&grant);
    assert!((800..=900).contains(&left), "{left}");
    assert_eq!(says(&grant, "Active"), "True ExpiryTruncated");
    let store = valet_harness::eventually(
        crate::world::SOON,
        "the store to report the unknown credentials expiry",
        || {
            let store = t.get(&format!("costore/{}", t.name()))?;
            condition(&store, "CredentialsExpirationKnown")
                .is_some()
                .then_some(store)
        },
    );
    assert_eq!(says(&store, "CredentialsExpirationKnown"), "False ExpirationUnknown");
}

/// The apiserver rejects a store with a directory bucket, because sessions of such a bucket last only five minutes.
#[test]
fn directory_bucket_is_refused_by_the_apiserver() {
    let t = Tenant::new("directory");
    let mut store = t.store();
    store["metadata"]["name"] = json!(format!("{}-x", t.name()));
    store["spec"]["s3"]["bucket"] = json!("scratch--use1-az4--x-s3");
    let refused = t.world.plane.apply_all(&[store]).unwrap_err().to_string();
    assert!(refused.contains("bucket is a directory bucket"), "{refused}");
}

/// The total time of an access rule starts when the grant is created. It also limits renewals that the annotation
/// requests.
#[test]
fn grant_expires_at_the_total_time_of_its_access_rule() {
    let t = Tenant::new("total");
    let _operator = t.operator();
    let mut store = t.store();
    store["spec"]["access"][0]["maxTotalSeconds"] = json!(30);
    t.apply(&[
        store,
        t.grant("DownloadGrant", "short", json!({"expirationSeconds": 30})),
    ]);
    t.reason("dg/short", "Issued");
    for _ in 0..3 {
        let now = Timestamp::now().to_string();
        t.kubectl(&[
            "annotate",
            "dg/short",
            "--overwrite",
            &format!("valetkey.dev/renew-requested-at={now}"),
        ]);
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
    let grant = t.get("dg/short").unwrap();
    let created: Timestamp = grant["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let end: Timestamp = grant["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    assert!(end <= created + SignedDuration::from_secs(30), "{grant:#}");
    let ended = t.reason("dg/short", "Expired");
    assert!(ended["status"]["finishedTime"].is_string());
}
