//! The credentials that sign for a store. A Secret contains them, or they are the operator's own identity.

mod environment;
pub mod secret_data;
mod web_identity;

pub use environment::{Environment, NotAtHand};
