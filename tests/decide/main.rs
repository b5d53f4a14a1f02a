//! Tests of the decision logic: whole lives of grants in a simulated world with its own clock. The tests execute
//! every step that `decide` returns and check the invariants at each step.
//!
//! - `world` is the simulated world; `checks` has the invariants.
//! - `lives` is the table of lives. Each life runs with a cold and a warm cache, on time and late, and with a crash
//!   at every step.
//! - `polling` tests polling: the number of polls and their effect on the status.
//! - `clocks` tests the boundary of every timer, and `renewal` the timers of renewal.
//! - `rotation` tests the rotation of store credentials, and temporary credentials.
//! - `forged` tests forged statuses and annotations; `records` is the table of which record Valet believes.
//! - `repairs` tests a client that changes or deletes the Secret again and again.
//! - `remembered` tests the steps that need no read of the Secret.
//! - `refused` tests forged records beside a grant that the access rules refuse.
//! - `skew` tests clocks that differ.
//! - `stale` tests changes while Valet signs a credential.
//! - `walk` has random tests.

mod checks;
mod clocks;
mod forged;
mod lives;
mod play;
mod polling;
mod records;
mod refused;
mod remembered;
mod renewal;
mod repairs;
mod rotation;
mod skew;
mod stale;
mod walk;
mod world;

use valet_test_support::grants as common;
