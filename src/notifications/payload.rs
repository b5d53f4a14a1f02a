//! Parses the notifications of the supported stores. Each provider has a different message format. Valet reads only
//! the bucket and the object key from a notification, because it does not trust the rest of the message.

mod cloud_events;
mod event_grid;
mod keys;
mod notification;
mod pub_sub;
mod sns;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use serde::Deserialize;

use keys::possible_keys;
pub use notification::{MAX_OBJECTS, Malformed, Notification, ObjectCreated};
use pub_sub::Pushed;
pub use sns::Subscription;

/// The maximum size of a message, in bytes. SNS and EventBridge send at most 256 KiB of text. SNS puts this text into a
/// JSON string, and the escape characters of the JSON string make the text longer.
pub const MAX_BYTES: usize = 512 * 1024;

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    /// This field has the value `s3:TestEvent` in a test message. A test message names no object.
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
    /// A Pub/Sub push request contains its message in this field.
    #[serde(rename = "message")]
    pushed: Option<Pushed>,
    /// The CloudEvents version. Every CloudEvent contains this field.
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

/// Parses a message. The function uses a header only if the header describes a CloudEvent.
///
/// # Errors
/// Returns [`Malformed`] if the message is not a valid notification.
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
    // Valet does not show the parser's error, because the error can contain text from the message.
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

/// Returns true if the event name reports that an object was created. AWS sends the name `ObjectCreated:Put`. MinIO
/// and versitygw send the name `s3:ObjectCreated:Put`.
fn is_arrival(event: &str) -> bool {
    event.strip_prefix("s3:").unwrap_or(event).starts_with("ObjectCreated:")
}

impl From<EventObject> for ObjectCreated {
    fn from(place: EventObject) -> Self {
        Self {
            bucket: place.bucket.name,
            keys: possible_keys(place.object.key),
        }
    }
}
