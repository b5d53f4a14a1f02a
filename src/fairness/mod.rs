//! Shares limited work fairly. Each piece of work belongs to a key, usually a namespace. If a key has much work, this
//! does not delay the work of different keys. The limits and the callers are in the modules that use this module.

mod limiter;
mod pool;
mod queue;

pub use limiter::{FairLimiter, Permit};
pub use pool::Limits;
pub use queue::FairQueue;
