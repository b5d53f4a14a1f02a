//! Receives notifications: messages from stores that an object was created. Valet does not trust a notification. It
//! reconciles the grants that wait for the object, and asks the store for the state of the object. Therefore
//! repeated, late or forged notifications do no harm.

mod google;
pub mod payload;
mod relay;
mod scope;
mod server;
mod tokens;
mod topics;
mod upload_index;

pub use google::{CERTIFICATES as GOOGLE_CERTIFICATES, GoogleTokens};
pub use payload::{
    MAX_BYTES as MAX_NOTIFICATION_BYTES, Notification, ObjectCreated, Subscription, parse as parse_notification,
};
pub use relay::Leader;
pub use scope::{NamedSender, SenderScope};
pub use server::Receiver;
pub use tokens::Tokens;
pub use topics::Topics;
pub use upload_index::{NotifiedGrant, UploadIndex};
