//! Executes the decisions about one grant. Valet reads the facts that a decision lacks, executes the step that it
//! decided on, and decides again.
//!
//! All reads and writes of this module go through the trait [`Effects`]. The controller implements this trait with
//! the apiserver and the stores. The command `valet sign` implements it with files, and the tests implement it with a
//! simulated cluster.
//!
//! The tests can therefore stop a reconcile after every write, and they test the code that the operator runs.

mod effects;
mod error;
mod interpreter;
mod multipart;
mod report;
mod secret;

pub use effects::{Effects, InitiatedUpload, Note, StoreReading};
pub use error::{CALL_TIMEOUT, DEADLINE, Error};
pub use interpreter::{MAX_STEPS, Outcome, Reconcile};
