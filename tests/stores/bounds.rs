//! Tests with stores whose answers never end. Any user who may create an ObjectStore may run such a store.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use serde_json::json;
use valet::{
    core::{Access, ObjectFact, UploadFact, UploadsFact},
    provider::{Finding, ObjectReader, Prober, Provider, s3::S3},
};
use valet_harness::fake::{Asked, Fake, Reply};

use crate::access::access;

/// A store with `assumeRole` that gives this reply. The same server is its STS.
pub fn assuming(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Fake, S3) {
    let fake = Fake::start(reply);
    let settings = json!({
        "bucket": "media", "region": "us-east-1", "endpoint": fake.endpoint(), "addressingStyle": "Path",
        "credentials": {"assumeRole": {}},
    });
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    let s3 = S3::new(serde_json::from_value(settings).unwrap(), credentials, None);
    (fake, s3)
}

fn key() -> Access {
    access("a/b")
}

/// Valet stops reading an endless answer. Without this limit the SDK would keep the whole answer in memory, so the
/// server may send little more than the socket buffers hold.
#[tokio::test]
async fn endless_answer_is_not_read_to_memory() {
    const SOCKETS: u64 = 16 << 20;
    for status in [200, 400, 403, 500] {
        let (fake, s3) = assuming(move |_| Reply::Endless(status));
        let session = s3.multipart().unwrap();
        let probed = s3.probe().await;
        if let Finding::Unreachable(why) = &probed.finding {
            assert!(why.contains("bytes") || why.contains("answered"), "{why}");
        }
        session.arrived(&key(), "id").await;
        session.open(&key()).await;
        let each = fake.poured() / fake.asked().len() as u64;
        assert!(each < SOCKETS, "{status}: {each} bytes of each answer were read");
    }
}

/// Valet stops asking for a list of parts that never ends.
#[tokio::test]
async fn endless_list_of_parts_is_not_followed() {
    let (fake, s3) = assuming(|asked| {
        static PAGE: AtomicUsize = AtomicUsize::new(1);
        let next = PAGE.fetch_add(1, Ordering::Relaxed);
        let upload =
            "<Upload><Key>a/b</Key><UploadId>id</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>";
        let body = if asked.target.contains("uploads") {
            format!(
                "<ListMultipartUploadsResult>{}</ListMultipartUploadsResult>",
                upload.repeat(1000)
            )
        } else {
            format!(
                "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>{next}</NextPartNumberMarker></ListPartsResult>"
            )
        };
        Reply::Text(200, body)
    });
    let parts = s3.multipart().unwrap();
    let key = key();
    let asked = tokio::time::timeout(Duration::from_secs(30), parts.arrived(&key, "id"));
    let UploadFact::Unreachable(why) = asked.await.expect("the request fails") else {
        panic!("the state of the upload is not known")
    };
    assert!(why.contains("is longer than 20 pages"), "{why}");
    assert!(fake.asked().len() <= 20);

    let before = fake.asked().len();
    let UploadsFact::Listed { uploads, .. } = parts.open(&key).await else {
        panic!("it is a list")
    };
    assert_eq!(uploads.len(), 20, "not more uploads than requested");
    assert!(
        fake.asked().len() - before <= 20 + 1,
        "the parts of each upload are listed once"
    );
}

/// An error code from a store appears in no message if it contains other text.
#[tokio::test]
async fn error_code_that_contains_other_text_is_not_shown() {
    let (_fake, s3) = assuming(|_| {
        let code = "Nope&#10;2026-01-01T00:00:00Z ERROR valet: the cluster is lost";
        Reply::Text(403, format!("<Error><Code>{code}</Code><Message>m</Message></Error>"))
    });
    let why = s3.multipart().unwrap().abort(&key().to_abort("id")).await.unwrap_err();
    assert!(
        why.contains("403") && !why.contains("ERROR") && !why.contains('\n'),
        "{why}"
    );
}

/// A conformance check deletes the objects that it wrote, and no other object that the store lists.
#[tokio::test]
async fn conformance_check_deletes_only_its_own_objects() {
    let (fake, s3) = assuming(|asked| match asked.method.as_str() {
        "GET" if asked.target.contains("versions") => {
            let version = |key: &str| format!("<Version><Key>{key}</Key><VersionId>1</VersionId></Version>");
            let all = ["salaries", "valet-probe/check", "valet-probe/check-0/put"].map(version);
            Reply::Text(
                200,
                format!("<ListVersionsResult>{}</ListVersionsResult>", all.concat()),
            )
        }
        "POST" => Reply::HangUp,
        _ => Reply::Text(403, "<Error><Code>AccessDenied</Code></Error>".into()),
    });
    s3.check_conformance().await;
    let asked = fake.asked();
    assert!(
        asked.iter().any(|a| a.target.contains("versions")),
        "the check lists its own objects"
    );
    let deleted: Vec<_> = asked.iter().filter(|a| a.method == "DELETE").collect();
    assert!(deleted.is_empty(), "{deleted:?}");
}

/// A conformance check deletes a few versions of an object that it wrote, even if the store lists many more.
#[tokio::test]
async fn conformance_check_deletes_only_a_few_versions() {
    let fake = Fake::start(|asked| match asked.method.as_str() {
        "GET" if asked.target.contains("versions") => {
            let prefix = asked.target.split("prefix=").nth(1).and_then(|p| p.split('&').next());
            let folder = prefix.unwrap_or_default().replace("%2F", "/");
            let version = |n| format!("<Version><Key>{folder}put</Key><VersionId>{n}</VersionId></Version>");
            let all: String = (0..2000).map(version).collect();
            Reply::Text(200, format!("<ListVersionsResult>{all}</ListVersionsResult>"))
        }
        "POST" => Reply::Text(403, "<Error><Code>AccessDenied</Code></Error>".into()),
        _ => Reply::Text(200, String::new()),
    });
    let settings = json!({
        "bucket": "media", "region": "us-east-1", "endpoint": fake.endpoint(), "addressingStyle": "Path",
    });
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    let s3 = S3::new(serde_json::from_value(settings).unwrap(), credentials, None);
    s3.check_conformance().await;
    let asked = fake.asked();
    let deleted = asked.iter().filter(|a| a.method == "DELETE").count();
    assert!((1..=8).contains(&deleted), "{deleted}");
    assert!(asked.len() < 120, "{}", asked.len());
}

/// Valet rejects an answer with far more headers than a store sends.
#[tokio::test]
async fn answer_with_too_many_headers_is_rejected() {
    let huge = || Reply::With(200, vec![("content-type", "x".repeat(390_000))], String::new());
    let (_fake, s3) = assuming(move |asked| match asked.method.as_str() {
        "HEAD" => huge(),
        _ => Reply::Text(404, "<Error><Code>NoSuchKey</Code></Error>".into()),
    });
    let ObjectFact::Unreachable(why) = s3.head(&key()).await else {
        panic!("the answer is rejected");
    };
    assert!(why.contains("16 KiB of headers"), "{why}");
}

/// Valet stops after a total time limit if a store answers each request, but slowly.
#[tokio::test]
async fn slow_list_of_uploads_is_stopped_after_a_total_time() {
    let (fake, s3) = assuming(|asked| {
        let upload = |n| format!("<Upload><Key>a/b</Key><UploadId>{n}</UploadId></Upload>");
        if asked.target.contains("uploads") {
            let all: String = (0..20).map(upload).collect();
            return Reply::Text(
                200,
                format!("<ListMultipartUploadsResult>{all}</ListMultipartUploadsResult>"),
            );
        }
        std::thread::sleep(Duration::from_millis(4500));
        Reply::Text(
            200,
            "<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>".into(),
        )
    });
    let (parts, began) = (s3.multipart().unwrap(), std::time::Instant::now());
    let UploadsFact::Unreachable(why) = parts.open(&key()).await else {
        panic!("it took too long")
    };
    assert!(why.contains("10 s"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(fake.asked().len() <= 21);
}
