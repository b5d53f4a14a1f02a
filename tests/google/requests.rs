//! Tests of requests to the store itself: whether an object exists, and which capabilities the store has.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet::{
    api::Capability,
    core::{Access, ObjectFact},
    net::EgressPolicy,
    provider::gcs::{Gcs, Source},
    provider::{Finding, ObjectReader, Probed, Prober, Provider},
};

use crate::{
    HANG,
    access::access,
    fake::{Fake, RecordedRequest, Reply},
    key, store,
};

fn at(fake: &Fake) -> Gcs {
    store(json!({"endpoint": fake.url()}), Source::Key(Arc::new(key())), None)
}

fn name() -> Access {
    access("a/ü")
}

async fn head(reply: Reply) -> ObjectFact {
    let fake = Fake::start(move |_, _| reply.clone());
    at(&fake).head(&name()).await
}

fn http_date(t: Timestamp) -> String {
    t.to_zoned(jiff::tz::TimeZone::UTC)
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

#[tokio::test]
async fn head_of_object_returns_its_fields_and_skew_corrected_age() {
    // The store's clock is an hour ahead, and Valet computes the object's age with that clock only.
    let theirs = Timestamp::now() + SignedDuration::from_hours(1);
    let headers = vec![
        ("Content-Length", "20".into()),
        ("x-goog-stored-content-length", "5".into()),
        ("ETag", "\"abc\"".into()),
        ("Content-Type", "text/plain".into()),
        ("x-goog-generation", "1700000000000000".into()),
        ("x-goog-hash", "crc32c=n03x6A==".into()),
        ("x-goog-hash", "md5=Ojk9c3dhfxgoKVVHYwFbHQ==".into()),
        ("Last-Modified", http_date(theirs - SignedDuration::from_secs(90))),
        ("Date", http_date(theirs)),
    ];
    let fake = Fake::start(move |_, _| Reply::Answer(200, headers.clone(), String::new()));
    let ObjectFact::Present { object, modified_at } = at(&fake).head(&name()).await else {
        panic!("it is there");
    };
    assert_eq!(object.size, Some(5));
    assert_eq!(object.e_tag.as_deref(), Some("\"abc\""));
    assert_eq!(object.content_type.as_deref(), Some("text/plain"));
    assert_eq!(object.version.as_deref(), Some("1700000000000000"));
    assert_eq!(object.checksum_md5.as_deref(), Some("Ojk9c3dhfxgoKVVHYwFbHQ=="));
    assert_eq!(object.checksum_crc32c.as_deref(), Some("n03x6A=="));
    assert_eq!(object.checksum_sha256, None);
    let age = Timestamp::now().duration_since(modified_at.unwrap()).as_secs();
    assert!((88..=95).contains(&age), "{age}");

    // The HEAD request has a signature that is valid for one minute, and no bearer token.
    let [call] = &fake.calls()[..] else {
        panic!("one request")
    };
    assert_eq!(call.method, "HEAD");
    assert!(
        call.path
            .starts_with("/media/a/%C3%BC?X-Goog-Algorithm=GOOG4-RSA-SHA256&"),
        "{}",
        call.path
    );
    assert!(call.path.contains("&X-Goog-Expires=60&") && call.header("authorization").is_none());
}

#[tokio::test]
async fn head_answers_map_to_object_states() {
    assert!(matches!(head(Reply::text(404, "")).await, ObjectFact::Absent));
    for status in [401, 403] {
        assert!(matches!(head(Reply::text(status, "")).await, ObjectFact::Hidden));
    }
    for reply in [
        Reply::text(500, "marker"),
        Reply::text(301, "marker"),
        Reply::text(400, "marker"),
        Reply::Bytes(b"marker"),
        Reply::Bytes(b""),
    ] {
        match head(reply.clone()).await {
            ObjectFact::Unreachable(why) => assert!(!why.contains("marker"), "{why}"),
            other => panic!("{reply:?}: {other:?}"),
        }
    }
    // Fields that the store does not send stay empty.
    let ObjectFact::Present { object, modified_at } =
        head(Reply::Answer(200, vec![("x-goog-hash", "=,md5".into())], String::new())).await
    else {
        panic!("it is there");
    };
    assert_eq!((object.version, object.checksum_md5, modified_at), (None, None, None));
    match tokio::time::timeout(HANG, head(Reply::Silence)).await {
        Ok(ObjectFact::Unreachable(why)) => assert!(why.contains("no answer within 5 s"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tenant_store_with_internal_endpoint_gets_no_request() {
    let fake = Fake::start(|_, _| Reply::text(404, ""));
    let settings = json!({"bucket": "media", "endpoint": fake.url()});
    for endpoint in [fake.url(), fake.url().replace("127.0.0.1", "localhost")] {
        let mut settings = settings.clone();
        settings["endpoint"] = endpoint.into();
        let gcs = Gcs::new(
            serde_json::from_value(settings).unwrap(),
            Source::Key(Arc::new(key())),
            None,
            Some(EgressPolicy::default()),
        );
        match gcs.head(&name()).await {
            ObjectFact::Unreachable(why) => assert!(why.contains("loopback"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fake.calls().len(), 0);
}

fn xml(code: &str) -> String {
    format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>marker</Message></Error>")
}

async fn probe(answer: impl Fn(&RecordedRequest, usize) -> Reply + Send + Sync + 'static) -> (Probed, Gcs, Fake) {
    let fake = Fake::start(answer);
    let gcs = at(&fake);
    (gcs.probe().await, gcs, fake)
}

/// Whether the request has an unsigned header that asks the store for something.
fn is_unsigned(call: &RecordedRequest) -> bool {
    let names = ["x-goog-copy-source", "x-goog-meta-valet-probe"];
    names.iter().any(|name| call.header(name).is_some())
}

/// A store as Google documents it: it refuses an unsigned header, and an upload whose MD5 does not match its bytes.
fn documented(call: &RecordedRequest) -> Reply {
    match call.method.as_str() {
        _ if is_unsigned(call) => Reply::text(403, &xml("AccessDenied")),
        "PUT" if call.header("x-goog-if-generation-match").is_some() => Reply::text(412, &xml("PreconditionFailed")),
        "PUT" => Reply::text(400, &xml("BadDigest")),
        _ => Reply::text(404, &xml("NoSuchKey")),
    }
}

#[tokio::test]
async fn probe_of_conforming_store_finds_all_capabilities() {
    let (probed, gcs, fake) = probe(|call, _| documented(call)).await;
    assert_eq!(probed.finding, Finding::Usable);
    assert_eq!((probed.refuses_unsigned, probed.skew), (Some(true), None));
    let can = gcs.capabilities();
    assert!(can.enforced.contains(&Capability::SignedHeadersOnly) && can.enforced.contains(&Capability::WriteOnce));
    let methods: Vec<_> = fake.calls().iter().map(|c| c.method.clone()).collect();
    assert_eq!(methods, ["GET", "PUT", "PUT", "PUT", "PUT", "PUT"]);
    assert!(fake.calls().iter().all(|c| c.path.starts_with("/media/valet-probe")));
}

/// A refusal proves nothing if the store also refuses the upload without the header, because of a wrong clock or
/// missing rights.
#[tokio::test]
async fn a_refusal_counts_only_if_the_upload_is_accepted_without_the_header() {
    let refuses = |call: &RecordedRequest, _: usize| match call.method.as_str() {
        "PUT" => Reply::text(403, &xml("AccessDenied")),
        _ if is_unsigned(call) => Reply::text(403, &xml("AccessDenied")),
        _ => Reply::text(403, &xml("AccessDenied")),
    };
    let (probed, gcs, _) = probe(refuses).await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, None));
    assert!(!gcs.capabilities().enforced.contains(&Capability::SignedHeadersOnly));
}

/// The probe finds that a store does not support preconditions, and still finds how the store treats unsigned
/// headers.
#[tokio::test]
async fn probe_of_store_without_preconditions_finds_no_write_once() {
    let (probed, gcs, _) = probe(|call, _| match call.header("x-goog-if-generation-match") {
        Some(_) => Reply::text(400, &xml("InvalidArgument")),
        None => documented(call),
    })
    .await;
    assert_eq!(probed.refuses_unsigned, Some(true));
    assert!(!gcs.capabilities().enforced.contains(&Capability::WriteOnce));
    assert!(probed.notices[0].contains("400"), "{:?}", probed.notices);
}

/// An object at the probe key, which any writer may have put there, does not prevent the test of unsigned headers.
#[tokio::test]
async fn object_at_the_probe_key_does_not_prevent_the_probe() {
    let answer = |call: &RecordedRequest, _: usize| match call.method.as_str() {
        "GET" if call.path.starts_with("/media/valet-probe?") => Reply::text(200, "x"),
        "PUT" if call.path.starts_with("/media/valet-probe?") => panic!("it must not be overwritten"),
        "PUT" if call.header("x-goog-copy-source").is_some() => Reply::text(404, &xml("NoSuchKey")),
        _ => documented(call),
    };
    let (probed, _, _) = probe(answer).await;
    assert_eq!(probed.refuses_unsigned, Some(false));
}

/// A store that searches for the object in the unsigned header obeys the header, so Valet issues no URL for PUT.
#[tokio::test]
async fn probe_detects_store_that_obeys_unsigned_headers() {
    let answer = |call: &RecordedRequest, _: usize| match call.header("x-goog-copy-source") {
        Some(_) => Reply::text(404, &xml("NoSuchKey")),
        None => documented(call),
    };
    let (probed, gcs, _) = probe(answer).await;
    assert_eq!(probed.refuses_unsigned, Some(false));
    assert!(!gcs.capabilities().enforced.contains(&Capability::SignedHeadersOnly));
    assert!(
        gcs.capabilities()
            .post_form
            .as_ref()
            .unwrap()
            .contains(&Capability::SignedHeadersOnly)
    );
}

/// A store that ignores the unsigned header and the MD5 writes an object. The probe deletes it.
#[tokio::test]
async fn object_written_by_a_probe_is_deleted() {
    let answer = |call: &RecordedRequest, _: usize| match call.method.as_str() {
        "GET" => Reply::text(404, "not found"),
        "PUT" if call.header("x-goog-if-generation-match").is_some() => Reply::text(412, ""),
        "PUT" => Reply::text(200, "{}"),
        "DELETE" => Reply::text(204, ""),
        other => panic!("{other}"),
    };
    let (probed, _, fake) = probe(answer).await;
    assert_eq!(probed.refuses_unsigned, Some(true));
    assert!(fake.calls().iter().any(|call| call.method == "DELETE"));
}

/// Valet sends only requests that change nothing to an endpoint that a tenant names.
#[tokio::test]
async fn tenant_endpoint_gets_only_read_requests_by_default() {
    for allows_writes in [false, true] {
        let fake = Fake::start(|call, _| documented(call));
        let networks: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
        let settings = json!({"bucket": "media", "endpoint": fake.url()});
        let gcs = Gcs::new(
            serde_json::from_value(settings).unwrap(),
            Source::Key(Arc::new(key())),
            None,
            Some(EgressPolicy::new(networks).changing(allows_writes)),
        );
        assert_eq!(gcs.probe().await.refuses_unsigned, Some(true));
        gcs.check_conformance().await;
        gcs.head(&name()).await;
        let has_changed = fake
            .calls()
            .iter()
            .any(|c| !["GET", "HEAD"].contains(&c.method.as_str()));
        assert_eq!(has_changed, allows_writes);
        let can_once = gcs.capabilities().enforced.contains(&Capability::WriteOnce);
        assert_eq!(can_once, allows_writes);
    }
}

/// A HEAD request that is refused because of clock skew says nothing about the credentials.
#[tokio::test]
async fn head_refused_during_clock_skew_is_reported_as_clock_skew() {
    let date = http_date(Timestamp::now() + SignedDuration::from_mins(20));
    let refused = Reply::Answer(403, vec![("Date", date)], String::new());
    assert!(matches!(head(refused).await, ObjectFact::ClockSkewed(_)));
}

/// If the account may not write, Valet cannot find out whether the store refuses unsigned headers.
#[tokio::test]
async fn probe_without_write_permission_gives_no_result_about_headers() {
    let answer = |call: &RecordedRequest, _: usize| match call.method.as_str() {
        "GET" => Reply::text(403, &xml("AccessDenied")),
        _ => Reply::text(403, &xml("AccessDenied")),
    };
    let (probed, _, _) = probe(answer).await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, None));
}

#[tokio::test]
async fn probe_errors_map_to_reasons() {
    for (status, code, reason) in [
        (404, "NoSuchBucket", "BucketNotFound"),
        (403, "SignatureDoesNotMatch", "CredentialsRefused"),
        (403, "InvalidSecurity", "CredentialsRefused"),
        (403, "RequestTimeTooSkewed", "ClockSkewed"),
    ] {
        let (probed, ..) = probe(move |_, _| Reply::text(status, &xml(code))).await;
        match probed.finding {
            Finding::Broken(found, message) => {
                assert_eq!(found.as_str(), reason, "{code}");
                assert!(!message.contains("marker"), "{message}");
            }
            other => panic!("{code}: {other:?}"),
        }
        assert_eq!(probed.refuses_unsigned, None);
    }
    let (probed, ..) = probe(|_, _| Reply::text(503, "marker")).await;
    assert!(matches!(probed.finding, Finding::Unreachable(why) if !why.contains("marker")));
}

#[tokio::test]
async fn clock_skew_is_reported_only_above_the_tolerance() {
    for (ahead, is_reported) in [(0, false), (20, false), (-20, false), (45, true), (-45, true)] {
        let answer = move |_: &RecordedRequest, _: usize| {
            let date = http_date(Timestamp::now() + SignedDuration::from_secs(ahead));
            Reply::Answer(404, vec![("Date", date)], xml("NoSuchKey"))
        };
        let (probed, ..) = probe(answer).await;
        assert_eq!(probed.skew.is_some(), is_reported, "{ahead}: {:?}", probed.skew);
        assert!(
            probed.skew.is_none_or(|s| (s.as_secs() - ahead).abs() <= 2),
            "{:?}",
            probed.skew
        );
    }
}
