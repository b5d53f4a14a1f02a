//! What stores post when an object has come. Each provider has a shape of its own; all say a bucket and a key, and
//! nothing else of them is read, since nothing else of them is believed.

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
    /// A CloudEvent says so.
    specversion: Option<String>,
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

/// Reads a message. Of the headers only those are looked at that say what a CloudEvent is about.
///
/// # Errors
/// [`Malformed`], if it is none.
pub fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Notification, Malformed> {
    if cloud_events::is_in_headers(headers) {
        return cloud_events::in_headers(headers);
    }
    // Only Event Grid sends lists.
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
        } => pushed.arrived()?,
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
