use thiserror::Error;

use super::sns::Subscription;

/// Valet accepts at most 100 objects in one message. A store reports one object per message, so a message with more
/// than 100 objects does not come from a store.
pub const MAX_OBJECTS: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// The message reports that these objects were created. The list is empty for a test message, and for an event
    /// that does not report a created object.
    Arrived(Vec<ObjectCreated>),
    /// An SNS topic asks Valet to confirm a subscription.
    Subscription(Subscription),
    /// A request of Event Grid to validate a subscription. Valet must return this validation code in its answer.
    Validation(String),
}

/// An object that was created, as a notification reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectCreated {
    pub bucket: String,
    /// All object keys that the text in the notification can stand for. Services encode object keys in different ways:
    /// S3 encodes them as form data, EventBridge does not encode them, and the remaining services use percent-encoding.
    ///
    /// Valet decodes the text in each of these ways, so the list can contain wrong object keys. Valet polls every
    /// object key in the list that a grant waits for. A poll of a wrong object key does no harm.
    pub keys: Vec<String>,
}

/// The error for a message that is not a valid notification. The error contains no text from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the message is not a notification of S3, MinIO, versitygw, EventBridge, SNS, Event Grid or Google Cloud Storage"
)]
pub struct Malformed;
