//! Tests of what Valet sends to probe a store, and what it concludes from the answers.

use crate::access::access;
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::json;
use valet::{
    api::{Capability, Reason},
    core::ObjectFact,
    net::EgressPolicy,
    provider::s3::S3,
    provider::{Finding, ObjectReader, Prober, Provider},
};
use valet_harness::fake::{Asked, Fake, Reply};

fn s3(fake: &Fake, egress: Option<EgressPolicy>) -> S3 {
    let settings =
        json!({"bucket": "media", "region": "us-east-1", "endpoint": fake.endpoint(), "addressingStyle": "Path"});
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    S3::new(serde_json::from_value(settings).unwrap(), credentials, egress)
}

fn error(status: u16, code: &str) -> Reply {
    Reply::Text(
        status,
        format!("<Error><Code>{code}</Code><Message>m</Message></Error>"),
    )
}

/// An error reply with the store's time.
fn error_at(ahead: i64, status: u16, code: &str) -> Reply {
    let date = (Timestamp::now() + SignedDuration::from_secs(ahead)).to_zoned(TimeZone::UTC);
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    Reply::With(status, vec![("Date", date)], body)
}

fn is_upload(asked: &Asked) -> bool {
    asked.method == "PUT"
}

/// Whether the request has an unsigned header that asks the store for something.
fn is_unsigned(asked: &Asked) -> bool {
    asked.header("x-amz-copy-source").is_some() || asked.header("x-amz-meta-valet-probe").is_some()
}

fn can(s3: &S3, capability: Capability) -> bool {
    s3.capabilities().enforced.contains(&capability)
}

/// A store that refuses unsigned headers and supports write-once uploads, unless `odd` returns another reply.
fn behaves(odd: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Fake {
    Fake::start(move |asked: &Asked| {
        if let Some(reply) = odd(asked) {
            return reply;
        }
        match asked.method.as_str() {
            _ if is_unsigned(asked) => error(403, "AccessDenied"),
            "PUT" if asked.header("if-none-match").is_some() => error(412, "PreconditionFailed"),
            "PUT" => error(400, "BadDigest"),
            "DELETE" => Reply::Text(204, String::new()),
            _ => error(404, "NoSuchKey"),
        }
    })
}

/// A store on a file system has a directory at the probe key while an object exists below it. The probe then tests
/// headers below the probe key.
#[tokio::test]
async fn headers_are_probed_below_a_probe_key_that_is_a_directory() {
    let fake = behaves(|asked| {
        let is_there = is_upload(asked) && asked.target.starts_with("/media/valet-probe?");
        is_there.then(|| error(409, "ExistingObjectIsDirectory"))
    });
    let s3 = s3(&fake, None);
    let probed = s3.probe().await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, Some(true)));
    assert!(can(&s3, Capability::SignedHeadersOnly));
}

#[tokio::test]
async fn probe_detects_store_that_refuses_unsigned_headers() {
    let fake = behaves(|_| None);
    let s3 = s3(&fake, None);
    let probed = s3.probe().await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, Some(true)));
    assert!(probed.notices.is_empty(), "{:?}", probed.notices);
    assert!(can(&s3, Capability::SignedHeadersOnly) && can(&s3, Capability::WriteOnce));
    // A probe request tests one thing only: no request has both a condition and an unsigned header.
    for asked in fake.asked().iter().filter(|a| is_upload(a)) {
        assert!(
            asked.header("if-none-match").is_none() || asked.header("content-md5").is_none() && !is_unsigned(asked),
            "{asked:?}"
        );
    }
    assert!(fake.asked().iter().all(|a| a.method != "DELETE"), "nothing was written");
}

/// While the clocks differ the store refuses every request, so Valet concludes nothing about unsigned headers.
#[tokio::test]
async fn probe_during_clock_skew_gives_no_result_about_headers() {
    for (ahead, expected) in [
        (45, Finding::Usable),
        (-90, Finding::Usable),
        (1200, Finding::Broken(Reason::ClockSkewed, String::new())),
        (-1200, Finding::Broken(Reason::ClockSkewed, String::new())),
    ] {
        let fake = Fake::start(move |asked: &Asked| match asked.method.as_str() {
            "PUT" => error_at(ahead, 403, "AccessDenied"),
            _ => error_at(ahead, 404, "NoSuchKey"),
        });
        let s3 = s3(&fake, None);
        let probed = s3.probe().await;
        match (&probed.finding, &expected) {
            (Finding::Broken(found, why), Finding::Broken(reason, _)) => {
                assert_eq!(found, reason);
                assert!(why.contains("clock is about 1200 s"), "{why}");
            }
            (found, expected) => assert_eq!(found, expected, "{ahead}"),
        }
        assert_eq!(probed.refuses_unsigned, None, "{ahead}");
        assert!((probed.skew.unwrap().as_secs() - ahead).abs() <= 2, "{:?}", probed.skew);
        assert!(fake.asked().iter().all(|a| !is_upload(a)), "{ahead}");
    }
}

/// A store without a `Date` header does not reveal clock skew. A refusal of the request without the unsigned header
/// shows that the result means nothing.
#[tokio::test]
async fn refusal_of_an_expired_url_is_no_refusal_of_a_header() {
    let fake = Fake::start(|asked: &Asked| match asked.method.as_str() {
        "PUT" => error(403, "AccessDenied"),
        _ if asked.target.contains("X-Amz-Signature") => error(403, "AccessDenied"),
        _ => error(404, "NoSuchKey"),
    });
    let s3 = s3(&fake, None);
    let probed = s3.probe().await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, None));
    assert!(probed.not_reported.is_some());
    assert!(
        !can(&s3, Capability::SignedHeadersOnly),
        "a capability that is not known is not listed"
    );
}

#[tokio::test]
async fn earlier_probe_result_stays_if_a_new_probe_has_no_result() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };
    for obeys in [false, true] {
        let is_late = Arc::new(AtomicBool::new(false));
        let late = is_late.clone();
        let fake = behaves(move |asked| {
            let is_obeyed = obeys && asked.header("x-amz-copy-source").is_some();
            match late.load(Ordering::Relaxed) {
                true => Some(error_at(90, if is_upload(asked) { 403 } else { 404 }, "NoSuchKey")),
                false => is_obeyed.then(|| error(404, "NoSuchKey")),
            }
        });
        let s3 = s3(&fake, None);
        assert_eq!(s3.probe().await.refuses_unsigned, Some(!obeys));
        is_late.store(true, Ordering::Relaxed);
        assert_eq!(s3.probe().await.refuses_unsigned, None);
        assert_eq!(can(&s3, Capability::SignedHeadersOnly), !obeys);
    }
}

/// Valet finds that a store obeys an unsigned header even if the store answers 501 to conditional writes.
#[tokio::test]
async fn probe_detects_obeyed_headers_without_conditional_writes() {
    let fake = behaves(|asked| match asked.method.as_str() {
        "PUT" if asked.header("if-none-match").is_some() => Some(error(501, "NotImplemented")),
        "PUT" if asked.header("x-amz-copy-source").is_some() => Some(error(404, "NoSuchKey")),
        _ => None,
    });
    let s3 = s3(&fake, None);
    let probed = s3.probe().await;
    assert_eq!(
        (probed.finding, probed.refuses_unsigned),
        (Finding::Usable, Some(false))
    );
    assert!(!can(&s3, Capability::SignedHeadersOnly) && !can(&s3, Capability::WriteOnce));
    assert!(probed.notices[0].contains("501 NotImplemented"), "{:?}", probed.notices);
}

#[tokio::test]
async fn probe_detects_missing_or_ignored_write_once_uploads() {
    for (answer, remark) in [
        ((501, "NotImplemented"), "501 NotImplemented"),
        ((400, "InvalidArgument"), "InvalidArgument"),
        ((200, ""), "replaced an existing object"),
    ] {
        let fake = behaves(move |asked| asked.header("if-none-match").map(|_| error(answer.0, answer.1)));
        let s3 = s3(&fake, None);
        let probed = s3.probe().await;
        assert_eq!(probed.refuses_unsigned, Some(true), "{answer:?}");
        assert!(!can(&s3, Capability::WriteOnce), "{answer:?}");
        let parts = s3.capabilities().multipart.clone().unwrap();
        assert!(!parts.contains(&Capability::WriteOnce), "{answer:?}");
        let said = &probed.notices[0];
        assert!(said.contains(remark) && said.contains("overwrite: Allow"), "{said}");
        let has_deleted = fake.asked().iter().any(|a| a.method == "DELETE");
        assert_eq!(has_deleted, answer.0 == 200, "{answer:?}");
    }
}

#[tokio::test]
async fn probe_detects_that_object_lock_requires_checksums() {
    let fake = behaves(|asked| match asked.method.as_str() {
        "PUT" if asked.header("content-md5").is_none() => Some(error(400, "InvalidRequest")),
        _ => None,
    });
    let s3 = s3(&fake, None);
    let probed = s3.probe().await;
    assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, Some(true)));
    assert!(s3.capabilities().wants_checksums && can(&s3, Capability::WriteOnce));
    assert!(probed.notices[0].contains("Object Lock"), "{:?}", probed.notices);
}

/// Valet sends only requests that change nothing to an endpoint that a tenant names. It then assumes only
/// capabilities that are safe without a test.
#[tokio::test]
async fn tenant_endpoint_gets_only_read_requests_by_default() {
    let networks: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
    for allows_writes in [false, true] {
        let fake = behaves(|_| None);
        let s3 = s3(&fake, Some(EgressPolicy::new(networks.clone()).changing(allows_writes)));
        let probed = s3.probe().await;
        assert_eq!((probed.finding, probed.refuses_unsigned), (Finding::Usable, Some(true)));
        s3.head(&access("a/b")).await;
        let report = s3.check_conformance().await;
        assert!(can(&s3, Capability::SignedHeadersOnly));
        assert_eq!(can(&s3, Capability::WriteOnce), allows_writes);
        let has_changed = fake
            .asked()
            .iter()
            .any(|a| !["GET", "HEAD"].contains(&a.method.as_str()));
        assert_eq!(has_changed, allows_writes);
        if !allows_writes {
            let can = s3.capabilities();
            assert!(can.only_read && can.multipart.is_none());
            assert!(
                report.not_tested[0].contains("--tenant-store-requests=All"),
                "{report:?}"
            );
        }
    }
}

#[tokio::test]
async fn head_refused_during_clock_skew_is_reported_as_clock_skew() {
    let key = access("a/b");
    let look = async |reply: fn(&Asked) -> Reply| {
        let fake = Fake::start(reply);
        s3(&fake, None).head(&key).await
    };
    assert!(matches!(
        look(|_| error_at(1200, 403, "RequestTimeTooSkewed")).await,
        ObjectFact::ClockSkewed(_)
    ));
    assert!(matches!(
        look(|_| error_at(0, 403, "AccessDenied")).await,
        ObjectFact::Hidden
    ));
    // If the store sends no `Date` header, Valet sends a request whose error has a body with a code.
    assert!(matches!(
        look(|_| error(403, "RequestTimeTooSkewed")).await,
        ObjectFact::ClockSkewed(_)
    ));
    assert!(matches!(look(|_| error(403, "AccessDenied")).await, ObjectFact::Hidden));
}
