//! Where stores say that an object has come. What they say is a hint and nothing more: it makes a visit to the grants
//! that await that object due, and the visit asks the store. So repeated, late, forged and foreign messages are
//! harmless.

mod awaited;
mod google;
pub mod payload;
mod relay;
mod scope;
mod server;
mod tokens;
mod topics;

pub use awaited::{Awaited, Call};
pub use google::{CERTIFICATES as GOOGLE_CERTIFICATES, GoogleTokens};
pub use payload::{
    Arrived, MAX_BYTES as MAX_NOTIFICATION_BYTES, Notification, Subscription, parse as parse_notification,
};
pub use relay::Leader;
pub use scope::{NamedSender, SenderScope};
pub use server::Receiver;
pub use tokens::Tokens;
pub use topics::Topics;
