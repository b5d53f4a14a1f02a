//! Tests the parser with messages of Amazon S3 and compatible stores, and with invalid messages.

use serde_json::{Value, json};

use super::*;

/// Parses a message that has no headers of a CloudEvent.
pub fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    super::parse(&HeaderMap::new(), body)
}

pub fn arrived(body: &Value) -> Vec<ObjectCreated> {
    match parse(body.to_string().as_bytes()) {
        Ok(Notification::Arrived(arrived)) => arrived,
        other => panic!("{body}: {other:?}"),
    }
}

pub fn object(bucket: &str, keys: &[&str]) -> ObjectCreated {
    ObjectCreated {
        bucket: bucket.into(),
        keys: keys.iter().map(|k| (*k).to_owned()).collect(),
    }
}

pub fn record(event: &str, key: &str) -> Value {
    // This is a shortened example from the AWS documentation (event message structure 2.3).
    json!({
        "eventVersion": "2.3", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
        "eventTime": "2027-01-15T08:00:00.000Z", "eventName": event,
        "userIdentity": {"principalId": "A"}, "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "c",
            "bucket": {"name": "media", "ownerIdentity": {"principalId": "A"}, "arn": "arn:aws:s3:::media"},
            "object": {"key": key, "size": 3, "eTag": "e", "sequencer": "0055AED6DCD90281E5"},
        },
    })
}

#[test]
fn notifications_of_s3_minio_and_versitygw_are_parsed() {
    for event in ["ObjectCreated:Put", "s3:ObjectCreated:CompleteMultipartUpload"] {
        let found = arrived(&json!({"Records": [record(event, "a/b.png")]}));
        assert_eq!(found, [object("media", &["a/b.png"])]);
    }
    let minio = json!({
        "EventName": "s3:ObjectCreated:Put", "Key": "media/a/b.png",
        "Records": [record("s3:ObjectCreated:Put", "a%2Fb.png")],
    });
    assert_eq!(arrived(&minio), [object("media", &["a/b.png", "a%2Fb.png"])]);
    // Events about deletions and restores do not create an object.
    for event in ["ObjectRemoved:Delete", "s3:ObjectRestore:Post", "ObjectCreatedNot", ""] {
        assert_eq!(arrived(&json!({"Records": [record(event, "a")]})), []);
    }
    assert_eq!(arrived(&json!({"Records": []})), []);
    let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "media"});
    assert_eq!(arrived(&test), []);
}

#[test]
fn notifications_of_event_bridge_and_sns_are_parsed() {
    let event = json!({
        "version": "0", "id": "17793124-05d4", "detail-type": "Object Created", "source": "aws.s3",
        "account": "111122223333", "region": "eu-west-1", "resources": ["arn:aws:s3:::media"],
        "detail": {
            "version": "0", "bucket": {"name": "media"},
            "object": {"key": "a/b.png", "size": 5, "etag": "b", "version-id": "I", "sequencer": "0"},
            "request-id": "N4N7GDK58NMKJ12R", "requester": "1", "reason": "PutObject",
        },
    });
    assert_eq!(arrived(&event), [object("media", &["a/b.png"])]);
    let mut deleted = event;
    deleted["detail-type"] = json!("Object Deleted");
    assert_eq!(arrived(&deleted), []);

    let told = json!({"Records": [record("ObjectCreated:Put", "a+b")]});
    let sns = json!({
        "Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Subject": "Amazon S3 Notification",
        "Message": told.to_string(), "Signature": "x", "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
    });
    assert_eq!(arrived(&sns), [object("media", &["a b", "a+b"])]);
    // The parser unpacks only one SNS message, not an SNS message inside it.
    let twice = json!({"Type": "Notification", "Message": sns.to_string()});
    assert_eq!(parse(twice.to_string().as_bytes()), Err(Malformed));
}

#[test]
fn invalid_notification_is_rejected() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let many: Vec<_> = (0..=MAX_OBJECTS).map(|_| record("ObjectCreated:Put", "a")).collect();
    for body in [
        String::new(),
        "x".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "1e999".into(),
        deep(200_000),
        format!("{{\"Records\":{}}}", deep(200_000)),
        json!({"Records": {}}).to_string(),
        json!({"Records": [1]}).to_string(),
        json!({"Records": [{"s3": {"bucket": {"name": 1}, "object": {"key": "a"}}}]}).to_string(),
        json!({"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": null}}}]}).to_string(),
        json!({"Records": many}).to_string(),
        json!({"detail": {"bucket": "b"}}).to_string(),
        json!({"Type": "Notification"}).to_string(),
        json!({"Type": "Notification", "Message": {"Records": []}}).to_string(),
        json!({"Type": "SubscriptionConfirmation", "TopicArn": "t"}).to_string(),
        json!({"Type": "Else"}).to_string(),
        r#"{"Records":[],"Records":[]}"#.into(),
        "{\"Event\":\"\u{0}".into(),
    ] {
        let start: String = body.chars().take(60).collect();
        assert_eq!(parse(body.as_bytes()), Err(Malformed), "{start}");
    }
    assert_eq!(parse(b"\xff\xfe{\"Records\":[]}"), Err(Malformed));
    assert_eq!(parse(b"{\"Event\":\"\xff\"}"), Err(Malformed));
    // If the parser ignores a field, it accepts any nesting depth in this field.
    let passed = format!("{{\"Records\":[],\"x\":{}}}", deep(100_000));
    assert!(parse(passed.as_bytes()).is_ok());
}

/// Truncated, corrupted and duplicated messages must not cause a panic.
#[test]
fn damaged_messages_cause_no_panic() {
    let seed = json!({"Records": [record("ObjectCreated:Put", "a%2Fb+c"), record("s3:ObjectCreated:Post", "d")]});
    let sns = json!({"Type": "Notification", "Message": seed.to_string()});
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut dice = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % n as u64).unwrap_or_default()
    };
    let mut read = 0;
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { &seed } else { &sns }.to_string().into_bytes();
        for _ in 0..=dice(3) {
            let at = dice(bytes.len());
            match dice(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] ^= 1 << dice(8),
                2 => bytes[at] = b"{}[]\",:\\0"[dice(9)],
                _ => {
                    let piece = bytes[at..(at + dice(40)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        if let Ok(Notification::Arrived(arrived)) = parse(&bytes) {
            read += 1;
            assert!(arrived.len() <= MAX_OBJECTS && arrived.iter().all(|a| !a.keys.is_empty()));
        }
    }
    assert!(
        read > 1000,
        "only {read} messages could be parsed; the test damages them too much"
    );
}
