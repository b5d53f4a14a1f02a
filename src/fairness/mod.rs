//! Divides limited work fairly between namespaces.
//!
//! Each piece of work is an item. Each item has a key, which is usually a namespace. The keys take turns, so a key
//! with many items does not delay the items of other keys. An item needs a permit to run, and each pool has a limited
//! number of permits. The modules that use this module set the limits.

mod limiter;
mod pool;
mod queue;

pub use limiter::{FairLimiter, Permit};
pub use pool::Limits;
pub use queue::FairQueue;
