//! A store whose STS makes sessions and does not hold them to the policies that they were asked for with.

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet::{
    api::Reason,
    sign::{Finding, Provider, s3::S3},
};
use valet_harness::fake::{Asked, Fake, Reply};

/// What STS answers: a session.
fn session() -> Reply {
    let end = (Timestamp::now() + SignedDuration::from_mins(15)).strftime("%Y-%m-%dT%H:%M:%SZ");
    Reply::Text(
        200,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken><Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
        ),
    )
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::Text(
        status,
        format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

/// A store that refuses headers which are not signed; of a session's request for another key than its own it says `beside`.
fn store(beside: fn() -> Reply) -> (Fake, S3) {
    let fake = Fake::start(move |asked: &Asked| match asked.method.as_str() {
        "POST" => session(),
        "PUT" if asked.header("x-amz-copy-source").is_some() => error(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
        ),
        "PUT" => beside(),
        _ => error(404, "NoSuchKey", "there is none"),
    });
    let settings = json!({
        "bucket": "media", "region": "us-east-1", "endpoint": fake.endpoint(), "addressingStyle": "Path",
        "credentials": {"assumeRole": {}},
    });
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    let s3 = S3::new(serde_json::from_value(settings).unwrap(), credentials, None);
    (fake, s3)
}

#[tokio::test]
async fn sessions_that_confine_nothing() {
    for beside in [
        || error(400, "BadDigest", "the Content-MD5 did not match"),
        || Reply::Text(200, String::new()),
    ] {
        let (fake, s3) = store(beside);
        let Finding::Broken(reason, why) = s3.probe().await.finding else {
            panic!("it is not usable")
        };
        assert_eq!(reason, Reason::KeysNotEnforced);
        assert!(why.contains("assumeRole"), "{why}");
        // It is the session of one key that asks for another.
        let asked = fake.asked();
        let policy = &asked.iter().find(|a| a.method == "POST").unwrap().body;
        assert!(policy.contains("valet-probe%2Fsession"), "{policy}");
        let beside = asked.iter().find(|a| a.header("content-md5").is_some()).unwrap();
        assert!(beside.target.starts_with("/media/valet-probe?") || beside.target == "/media/valet-probe");
        assert_eq!(beside.header("x-amz-security-token"), Some("token"));
    }
}

#[tokio::test]
async fn sessions_that_do() {
    let (fake, s3) = store(|| error(403, "AccessDenied", "Access Denied"));
    assert_eq!(s3.probe().await.finding, Finding::Usable);
    let asked = fake.asked().len();
    // That is seen once.
    assert_eq!(s3.probe().await.finding, Finding::Usable);
    assert_eq!(fake.asked().len(), asked + 2);
    // An answer that says neither is none.
    let (_fake, s3) = store(|| error(501, "NotImplemented", "what is an MD5?"));
    assert_eq!(s3.probe().await.finding, Finding::Usable);
}
