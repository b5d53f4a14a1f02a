//! Parses the notifications of the supported stores. Each provider has its own format. Valet reads only the bucket
//! and the object key, because it trusts nothing else in a notification.

mod cloud_events;
mod event_grid;
mod keys;
mod pub_sub;
mod sns;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use serde::Deserialize;
use thiserror::Error;

use keys::readings;
use pub_sub::Pushed;
pub use sns::Subscription;

/// The maximum size of a message in bytes. SNS and EventBridge send at most 256 KiB of text, and SNS escapes it once.
pub const MAX_BYTES: usize = 512 * 1024;

/// The maximum number of objects in one message. Stores send one object per message, so a message with more than 100
/// is not from a store.
pub const MAX_OBJECTS: usize = 100;

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Objects were created. Empty for a test message or another kind of event.
    Arrived(Vec<ObjectCreated>),
    /// An SNS topic requests the confirmation of its subscription.
    Subscription(Subscription),
    /// Event Grid validates a subscription and expects this code in the answer.
    Validation(String),
}

/// An object that was created, according to a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectCreated {
    pub bucket: String,
    /// The possible object keys. S3 encodes object keys as form data, EventBridge does not encode them, and others
    /// use percent-encoding for paths. The same text can mean several keys, and polling for one key too many does no
    /// harm.
    pub keys: Vec<String>,
}

/// The message is not a notification. The error contains nothing of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a notification of S3, MinIO, versitygw, EventBridge, SNS, Event Grid or Google Cloud Storage")]
pub struct Malformed;

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    /// The test message `s3:TestEvent`, which names no object.
    #[serde(rename = "Event")]
    test: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    detail: Option<EventObject>,
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "TopicArn")]
    topic: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe: Option<String>,
    /// The message of a Pub/Sub push.
    #[serde(rename = "message")]
    pushed: Option<Pushed>,
    /// Present in every CloudEvent.
    specversion: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventName")]
    event: Option<String>,
    s3: EventObject,
}

#[derive(Deserialize)]
struct EventObject {
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

/// Parses a message. Only the headers that describe a CloudEvent are read.
///
/// # Errors
/// [`Malformed`], if the message is not a notification.
pub fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Notification, Malformed> {
    if cloud_events::is_in_headers(headers) {
        return cloud_events::in_headers(headers);
    }
    // Only Event Grid sends a JSON array.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return event_grid::parse(body).or_else(|_| cloud_events::list(body));
    }
    let message: Message = read(body)?;
    if message.specversion.is_some() {
        return cloud_events::one(body);
    }
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
    // The error of serde is dropped, because it quotes its input.
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
        } => pushed.arrived()?,
        Message {
            detail_type: Some(_), ..
        }
        | Message { test: Some(_), .. } => Vec::new(),
        _ => return Err(Malformed),
    };
    Ok(Notification::Arrived(arrived))
}

/// Whether the event name means that an object was created: `ObjectCreated:Put` on AWS, `s3:ObjectCreated:Put` on
/// MinIO and versitygw.
fn is_arrival(event: &str) -> bool {
    event.strip_prefix("s3:").unwrap_or(event).starts_with("ObjectCreated:")
}

impl From<EventObject> for ObjectCreated {
    fn from(place: EventObject) -> Self {
        Self {
            bucket: place.bucket.name,
            keys: readings(place.object.key),
        }
    }
}
