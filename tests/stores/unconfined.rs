//! Tests with an STS that creates sessions but does not enforce the session policies in the requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet::{
    api::{DownloadMode, Multipart, OperationSpec, Reason, UploadConstraints, UploadMode},
    core::{AllowedRequest, Lifetime, ObjectKey, SignError, SigningRequest, second},
    provider::s3::S3,
    provider::{Finding, Prober, Signer},
};
use valet_harness::fake::{Asked, Fake, Reply};

use super::{access::allowed, bounds::assuming};

/// The answer of STS, with a session.
fn session() -> Reply {
    Reply::Text(200, session_with("token"))
}

fn session_with(token: &str) -> String {
    let end = (Timestamp::now() + SignedDuration::from_mins(15)).strftime("%Y-%m-%dT%H:%M:%SZ");
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>{token}</SessionToken><Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::Text(
        status,
        format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

/// A store that refuses unsigned headers. A session may write its own object key, and `beside` is the reply to a
/// write of another key.
fn store(beside: impl Fn() -> Reply + Send + Sync + 'static) -> (Fake, S3) {
    store_with(session, beside)
}

/// Like `store`, with this reply of STS.
fn store_with(
    sts: impl Fn() -> Reply + Send + Sync + 'static,
    beside: impl Fn() -> Reply + Send + Sync + 'static,
) -> (Fake, S3) {
    assuming(move |asked: &Asked| match asked.method.as_str() {
        "POST" => sts(),
        "PUT" if asked.header("x-amz-copy-source").is_some() => error(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
        ),
        "PUT" if asked.target.starts_with("/media/valet-probe/session") => broken(),
        "PUT" => beside(),
        _ => error(404, "NoSuchKey", "there is none"),
    })
}

/// The store's reply to an allowed upload whose MD5 does not match its bytes.
fn broken() -> Reply {
    error(400, "BadDigest", "the Content-MD5 did not match")
}

#[tokio::test]
async fn store_that_ignores_session_policies_is_not_usable() {
    for beside in [
        || error(400, "BadDigest", "the Content-MD5 did not match"),
        || Reply::Text(200, String::new()),
    ] {
        let (fake, s3) = store(beside);
        let Finding::Broken(reason, why) = s3.probe().await.finding else {
            panic!("it is not usable")
        };
        assert_eq!(reason, Reason::ConstraintsNotEnforced);
        assert!(why.contains("assumeRole"), "{why}");
        // The session for one object key sends the request for another key.
        let asked = fake.asked();
        let policy = &asked.iter().find(|a| a.method == "POST").unwrap().body;
        assert!(policy.contains("valet-probe%2Fsession"), "{policy}");
        let by_session = |a: &&Asked| a.method == "PUT" && !a.target.contains("/session");
        let beside = asked.iter().find(by_session).unwrap();
        assert!(beside.target.starts_with("/media/valet-probe?") || beside.target == "/media/valet-probe");
        assert_eq!(beside.header("x-amz-security-token"), Some("token"));
    }
}

#[tokio::test]
async fn store_that_enforces_session_policies_is_tested_once() {
    let (fake, s3) = store(|| error(403, "AccessDenied", "Access Denied"));
    assert_eq!(s3.probe().await.finding, Finding::Usable);
    let sessions = || fake.asked().iter().filter(|a| a.method == "POST").count();
    assert_eq!(sessions(), 1);
    // A second probe does not test sessions again.
    assert_eq!(s3.probe().await.finding, Finding::Usable);
    assert_eq!(sessions(), 1);
}

/// If the store refuses even the session's own object key, the refusal of another key proves nothing: the clock may
/// be wrong, or the role may not write there. Valet then signs no upload.
#[tokio::test]
async fn session_test_has_no_result_if_its_own_key_is_refused() {
    for (own, other) in [
        ((403, "AccessDenied"), (403, "AccessDenied")),
        ((403, "RequestTimeTooSkewed"), (403, "RequestTimeTooSkewed")),
        ((501, "NotImplemented"), (501, "NotImplemented")),
        ((400, "BadDigest"), (501, "NotImplemented")),
    ] {
        let (_fake, s3) = assuming(move |asked: &Asked| match asked.method.as_str() {
            "POST" => session(),
            "PUT" if asked.target.starts_with("/media/valet-probe/session") => error(own.0, own.1, ""),
            "PUT" => error(other.0, other.1, ""),
            _ => error(404, "NoSuchKey", "there is none"),
        });
        match s3.sign(&request(upload())).await {
            Err(SignError::Credentials { reason, message }) => {
                assert_eq!(reason, Reason::ConstraintsNotEnforced, "{own:?}");
                assert!(message.contains("it is not known whether"), "{message}");
            }
            other => panic!("{own:?}: {other:?}"),
        }
        assert!(s3.sign(&request(download(DownloadMode::Url))).await.is_ok());
    }
}

fn request(operation_spec: OperationSpec) -> AllowedRequest {
    let now = second(Timestamp::now());
    allowed(SigningRequest {
        key: ObjectKey::parse("a/b", 1024).unwrap(),
        operation_spec,
        lifetime: Lifetime {
            issued_at: now,
            expires_at: now + SignedDuration::from_mins(10),
        },
        holder: "web.a".into(),
        upload: None,
    })
}

fn upload() -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Multipart::default(),
        constraints: UploadConstraints::default(),
    }
}

fn download(mode: DownloadMode) -> OperationSpec {
    OperationSpec::Download {
        mode,
        version: None,
        response: Default::default(),
    }
}

/// If the session test had no answer, Valet repeats it before it signs a credential that depends on it. A download
/// URL does not depend on it.
#[tokio::test]
async fn session_test_without_answer_is_repeated_before_signing() {
    let away = Arc::new(AtomicBool::new(true));
    let (_fake, s3) = store({
        let away = away.clone();
        move || match away.load(Ordering::Relaxed) {
            true => Reply::HangUp,
            false => error(400, "BadDigest", "the Content-MD5 did not match"),
        }
    });
    assert!(matches!(s3.probe().await.finding, Finding::Unreachable(_)));
    let refused = async |operation_spec: OperationSpec| match s3.sign(&request(operation_spec)).await {
        Err(SignError::Credentials { reason, message }) => (reason, message),
        other => panic!("{other:?}"),
    };
    for operation_spec in [upload(), download(DownloadMode::Credentials)] {
        let (reason, why) = refused(operation_spec).await;
        assert_eq!(reason, Reason::StoreUnreachable);
        assert!(why.contains("whether the store enforces session policies"), "{why}");
    }
    assert!(s3.sign(&request(download(DownloadMode::Url))).await.is_ok());
    away.store(false, Ordering::Relaxed);
    for operation_spec in [upload(), download(DownloadMode::Credentials)] {
        assert_eq!(refused(operation_spec).await.0, Reason::ConstraintsNotEnforced);
    }

    let (fake, s3) = store(|| error(403, "AccessDenied", "Access Denied"));
    assert!(s3.sign(&request(upload())).await.is_ok());
    let asked = fake.asked().len();
    assert!(s3.sign(&request(upload())).await.is_ok());
    assert_eq!(
        fake.asked().len(),
        asked + 1,
        "after the test, each credential needs one request to STS"
    );
}

/// Credentials from STS with line breaks or other invalid characters are refused, because workloads' clients read
/// them from files line by line.
#[tokio::test]
async fn sts_credentials_with_invalid_characters_are_refused() {
    for token in [
        "token&#10;credential_process = /bin/sh -c evil",
        "to ken",
        "",
        "tok\u{e9}n",
    ] {
        let reply = session_with(token);
        let (_fake, s3) = store_with(
            move || Reply::Text(200, reply.clone()),
            || error(403, "AccessDenied", "Access Denied"),
        );
        match s3.sign(&request(download(DownloadMode::Credentials))).await {
            Err(SignError::Credentials { reason, message }) => {
                assert_eq!(reason, Reason::CredentialsInvalid);
                assert!(!message.contains("evil"), "{message}");
            }
            other => panic!("{token}: {other:?}"),
        }
    }
}

/// An object at the probe key, which any writer may have put there, does not prevent the test of unsigned headers.
#[tokio::test]
async fn object_at_the_probe_key_does_not_prevent_the_probe() {
    let fake = Fake::start(|asked: &Asked| match asked.method.as_str() {
        "GET" if asked.target.starts_with("/media/valet-probe?") => Reply::Text(200, "x".into()),
        "PUT" if asked.header("x-amz-copy-source").is_some() => error(404, "NoSuchKey", "there is none"),
        "PUT" => {
            assert!(
                !asked.target.starts_with("/media/valet-probe?"),
                "it must not be overwritten"
            );
            broken()
        }
        _ => error(404, "NoSuchKey", "there is none"),
    });
    let settings =
        json!({"bucket": "media", "region": "us-east-1", "endpoint": fake.endpoint(), "addressingStyle": "Path"});
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    let s3 = S3::new(serde_json::from_value(settings).unwrap(), credentials, None);
    assert_eq!(s3.probe().await.refuses_unsigned, Some(false));
}
