//! The credentials that sign for a store. They come from a Secret or from the operator's own identity.

mod environment;
pub mod secret_data;
mod web_identity;

pub use environment::{Environment, NotAtHand};
