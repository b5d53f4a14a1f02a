//! Executes the decisions about one grant: reads the facts that a decision lacks, executes the decided step, and
//! decides again.
//!
//! The module has no client, no clock and no store. All reads and writes go through the trait [`Effects`]. The
//! controller implements it with the apiserver and the stores, `valet sign` with files, and the tests with a simulated
//! cluster. The code that the tests crash after every write is therefore the code that the operator runs.

mod effects;
mod error;
mod interpreter;
mod multipart;
mod report;
mod secret;

pub use effects::{Effects, InitiatedUpload, Note, StoreReading};
pub use error::{CALL_TIMEOUT, DEADLINE, Error};
pub use interpreter::{MAX_STEPS, Outcome, Reconcile};
