//! What stores post when an object has come. Each provider has a shape of its own; all say a bucket and a key, and
//! nothing else of them is read, since nothing else of them is believed.

mod event_grid;

use serde::Deserialize;
use thiserror::Error;

/// The longest message that is read. SNS and EventBridge send at most 256 KiB of text, and SNS quotes it once.
pub const MAX_BYTES: usize = 512 * 1024;

/// The most objects of one message. Stores send one each; a message with more than this is no store's.
pub const MAX_OBJECTS: usize = 100;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// These objects came. Empty: a test, or news of something else.
    Arrived(Vec<Arrived>),
    /// A topic asks whether it may send.
    Subscription(Subscription),
    /// Event Grid asks whether somebody is here who expects it: it wants this code back.
    Validation(String),
}

/// An object that is said to have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The bucket.
    pub bucket: String,
    /// What the key may be. S3 encodes keys as forms do, EventBridge does not, others encode as in paths: the same text
    /// can mean several keys, and asking for one too many does no harm.
    pub keys: Vec<String>,
}

/// An SNS topic's request to be confirmed.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// What it wants to be fetched. It has a token in it.
    pub url: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// Not a notification. It says nothing of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a notification of S3, MinIO, versitygw, EventBridge, SNS, Event Grid or Google Cloud Storage")]
pub struct Malformed;

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    /// `s3:TestEvent`, which names no object.
    #[serde(rename = "Event")]
    test: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    detail: Option<Place>,
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "TopicArn")]
    topic: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe: Option<String>,
    /// What Pub/Sub pushes.
    #[serde(rename = "message")]
    pushed: Option<Pushed>,
}

/// A message of Pub/Sub. Its data, the object's description, is passed over: the attributes name the object.
#[derive(Deserialize)]
struct Pushed {
    #[serde(default)]
    attributes: Attributes,
}

/// Of Google Cloud Storage ("Pub/Sub notifications for Cloud Storage", attributes). Other publishers have others.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    event_type: Option<String>,
    bucket_id: Option<String>,
    object_id: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventName")]
    event: Option<String>,
    s3: Place,
}

#[derive(Deserialize)]
struct Place {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// Reads a message.
///
/// # Errors
/// [`Malformed`], if it is none.
pub fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    // Only Event Grid sends lists.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return event_grid::parse(body);
    }
    let message: Message = read(body)?;
    match message.kind.as_deref() {
        None => objects(message),
        Some("Notification") => objects(read(message.message.ok_or(Malformed)?.as_bytes())?),
        Some("SubscriptionConfirmation") => Ok(Notification::Subscription(Subscription {
            topic: message.topic.ok_or(Malformed)?,
            url: message.subscribe.ok_or(Malformed)?,
        })),
        Some("UnsubscribeConfirmation") => Ok(Notification::Arrived(Vec::new())),
        Some(_) => Err(Malformed),
    }
}

fn read(text: &[u8]) -> Result<Message, Malformed> {
    // The error would quote what it could not read.
    serde_json::from_slice(text).map_err(|_| Malformed)
}

fn objects(message: Message) -> Result<Notification, Malformed> {
    let arrived: Vec<_> = match message {
        Message { records: Some(r), .. } if r.len() > MAX_OBJECTS => return Err(Malformed),
        Message { records: Some(r), .. } => r
            .into_iter()
            .filter(|record| record.event.as_deref().is_none_or(is_arrival))
            .map(|record| record.s3.into())
            .collect(),
        Message {
            detail: Some(place),
            detail_type,
            ..
        } if detail_type.as_deref() == Some("Object Created") => vec![place.into()],
        Message {
            pushed: Some(pushed), ..
        } => match pushed.attributes {
            Attributes {
                event_type: Some(event),
                bucket_id: Some(bucket),
                object_id: Some(object),
            } if event == "OBJECT_FINALIZE" => vec![Arrived {
                bucket,
                keys: vec![object],
            }],
            Attributes {
                event_type: Some(event),
                ..
            } if event == "OBJECT_FINALIZE" => return Err(Malformed),
            // What went, what was described anew, what somebody else publishes: Pub/Sub sends again what is not taken.
            _ => Vec::new(),
        },
        Message {
            detail_type: Some(_), ..
        }
        | Message { test: Some(_), .. } => Vec::new(),
        _ => return Err(Malformed),
    };
    Ok(Notification::Arrived(arrived))
}

/// `ObjectCreated:Put` of AWS, `s3:ObjectCreated:Put` of MinIO and versitygw.
fn is_arrival(event: &str) -> bool {
    event.strip_prefix("s3:").unwrap_or(event).starts_with("ObjectCreated:")
}

impl From<Place> for Arrived {
    fn from(place: Place) -> Self {
        Self {
            bucket: place.bucket.name,
            keys: readings(place.object.key),
        }
    }
}

/// What a key may be, as it stands in a message: in each way in which it can be encoded, and as it is.
fn readings(key: String) -> Vec<String> {
    let mut keys: Vec<String> = [decoded(&key, true), decoded(&key, false)]
        .into_iter()
        .flatten()
        .collect();
    keys.push(key);
    keys.dedup();
    keys
}

/// Takes percent-encoding away once; `None` if what it stands for is no text.
fn decoded(key: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Subscription {
    /// What may be fetched to confirm it: an address of SNS itself, for a topic of this list. `None` for anything else,
    /// since whoever has a token could otherwise send the operator anywhere.
    pub fn to_fetch(&self, topics: &[String]) -> Option<http::Uri> {
        if !topics.contains(&self.topic) {
            return None;
        }
        let uri: http::Uri = self.url.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let region = authority.strip_prefix("sns.").and_then(|rest| {
            rest.strip_suffix(".amazonaws.com")
                .or_else(|| rest.strip_suffix(".amazonaws.com.cn"))
        })?;
        let is_region = !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let confirms = uri.query()?.split('&').any(|pair| pair == "Action=ConfirmSubscription");
        (uri.scheme_str() == Some("https") && is_region && uri.path() == "/" && confirms).then_some(uri)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn arrived(body: &Value) -> Vec<Arrived> {
        match parse(body.to_string().as_bytes()) {
            Ok(Notification::Arrived(arrived)) => arrived,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn object(bucket: &str, keys: &[&str]) -> Arrived {
        Arrived {
            bucket: bucket.into(),
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        }
    }

    fn record(event: &str, key: &str) -> Value {
        // As AWS documents it (event message structure 2.3), shortened.
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
    fn s3_minio_and_versitygw() {
        for event in ["ObjectCreated:Put", "s3:ObjectCreated:CompleteMultipartUpload"] {
            let found = arrived(&json!({"Records": [record(event, "a/b.png")]}));
            assert_eq!(found, [object("media", &["a/b.png"])]);
        }
        let minio = json!({
            "EventName": "s3:ObjectCreated:Put", "Key": "media/a/b.png",
            "Records": [record("s3:ObjectCreated:Put", "a%2Fb.png")],
        });
        assert_eq!(arrived(&minio), [object("media", &["a/b.png", "a%2Fb.png"])]);
        // What went, and what is only being restored, has not come.
        for event in ["ObjectRemoved:Delete", "s3:ObjectRestore:Post", "ObjectCreatedNot", ""] {
            assert_eq!(arrived(&json!({"Records": [record(event, "a")]})), []);
        }
        assert_eq!(arrived(&json!({"Records": []})), []);
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "media"});
        assert_eq!(arrived(&test), []);
    }

    #[test]
    fn a_key_can_be_read_in_several_ways() {
        for (sent, keys) in [
            ("a b", &["a b"][..]),
            ("a+b", &["a b", "a+b"]),
            ("a%2Bb", &["a+b", "a%2Bb"]),
            ("a+%2B", &["a +", "a++", "a+%2B"]),
            ("%C3%A4", &["ä", "%C3%A4"]),
            ("ä", &["ä"]),
            ("%", &["%"]),
            ("%4", &["%4"]),
            ("%zz", &["%zz"]),
            ("%ff", &["%ff"]),
            ("%2541", &["%41", "%2541"]),
            ("", &[""]),
        ] {
            let found = arrived(&json!({"Records": [record("ObjectCreated:Put", sent)]}));
            assert_eq!(found, [object("media", keys)], "{sent}");
        }
    }

    #[test]
    fn event_bridge_and_sns() {
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
        // One letter in another is not opened twice.
        let twice = json!({"Type": "Notification", "Message": sns.to_string()});
        assert_eq!(parse(twice.to_string().as_bytes()), Err(Malformed));
    }

    fn pushed(attributes: Value) -> Value {
        // As Google documents it, shortened: the data is the object's description in base64.
        json!({
            "message": {
                "attributes": attributes,
                "data": "eyJraW5kIjoic3RvcmFnZSNvYmplY3QiLCJuYW1lIjoiYS9iLnBuZyJ9",
                "messageId": "2070443601311540", "message_id": "2070443601311540",
                "publishTime": "2027-01-15T08:00:00.519Z", "publish_time": "2027-01-15T08:00:00.519Z",
            },
            "subscription": "projects/myproject/subscriptions/valet",
        })
    }

    #[test]
    fn google_cloud_storage_by_pub_sub() {
        let attributes = |event: &str, object: &str| {
            json!({
                "eventType": event, "bucketId": "media", "objectId": object, "objectGeneration": "1700000000000000",
                "payloadFormat": "JSON_API_V1", "notificationConfig": "projects/_/buckets/media/notificationConfigs/1",
                "eventTime": "2027-01-15T08:00:00.519Z",
            })
        };
        // The name stands as it is: nothing in it is encoded.
        for name in ["a/b.png", "a+b %41.png", "ä"] {
            let found = arrived(&pushed(attributes("OBJECT_FINALIZE", name)));
            assert_eq!(found, [object("media", &[name])]);
        }
        for event in ["OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE", ""] {
            assert_eq!(arrived(&pushed(attributes(event, "a"))), []);
        }
        assert_eq!(arrived(&pushed(json!({"from": "somebody else"}))), []);
        let mut bare = pushed(json!({}));
        bare["message"].as_object_mut().unwrap().remove("attributes");
        assert_eq!(arrived(&bare), []);
        for half in [
            json!({"eventType": "OBJECT_FINALIZE", "bucketId": "media"}),
            json!({"eventType": 1}),
            json!([]),
        ] {
            assert_eq!(
                parse(pushed(half.clone()).to_string().as_bytes()),
                Err(Malformed),
                "{half}"
            );
        }
    }

    #[test]
    fn only_sns_itself_is_asked_and_only_for_topics_that_are_named() {
        let topic = "arn:aws:sns:eu-west-1:111122223333:uploads";
        let good = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:111122223333:uploads&Token=2336412f37f";
        let of = |url: &str| {
            let body = json!({"Type": "SubscriptionConfirmation", "TopicArn": topic, "SubscribeURL": url, "Token": "2336412f37f"});
            match parse(body.to_string().as_bytes()) {
                Ok(Notification::Subscription(s)) => s,
                other => panic!("{other:?}"),
            }
        };
        let topics = [topic.to_owned()];
        assert!(of(good).to_fetch(&topics).is_some());
        assert!(of(&good.replace(".com/", ".com.cn/")).to_fetch(&topics).is_some());
        assert!(of(good).to_fetch(&[]).is_none());
        assert!(
            of(good)
                .to_fetch(&["arn:aws:sns:eu-west-1:1:other".to_owned()])
                .is_none()
        );
        assert!(!format!("{:?}", of(good)).contains("2336412f37f"));
        for bad in [
            good.replace("https", "http"),
            good.replace(
                "sns.eu-west-1.amazonaws.com",
                "sns.eu-west-1.amazonaws.com.evil.example",
            ),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.evil.example/.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.a.b.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns..amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "evil@sns.eu-west-1.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.evil@10.0.0.1.amazonaws.com"),
            good.replace("amazonaws.com", "amazonaws.com:8443"),
            good.replace("sns.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"),
            good.replace("ConfirmSubscription", "Unsubscribe"),
            good.replace("/?", "/x?"),
            String::new(),
            "https://".into(),
        ] {
            assert!(of(&bad).to_fetch(&topics).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_notification_is_refused() {
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
        // Depth in what is passed over is no matter.
        let passed = format!("{{\"Records\":[],\"x\":{}}}", deep(100_000));
        assert!(parse(passed.as_bytes()).is_ok());
    }

    /// Cut, flipped and doubled messages: nothing panics, and an object is only ever named by a whole one.
    #[test]
    fn damaged_messages_do_no_harm() {
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
            "only {read} could be read: the damage is too great to say anything"
        );
    }
}
