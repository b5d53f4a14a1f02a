//! The judgement, played: whole lives of grants in a small world with its own clock, where every step that
//! `decide` asks for is taken and held against the invariants.
//!
//! - `world` is that world, `checks` what must hold in it at every step;
//! - `lives` is the table of lives, each played with every kind of memory, lateness, and a crash at every step;
//! - `looks` counts the looks at the object and reads what they say;
//! - `clocks` holds the boundary instants of every timer, `renewing` those of renewal;
//! - `anew` moves the credentials, and lends some;
//! - `forged` hands in statuses and annotations that somebody else has written, `records` is the table of what is believed;
//! - `repairs` has somebody change or delete the Secret again and again;
//! - `refused` holds what a tenant can write beside a grant that the rules refuse;
//! - `walk` goes where the dice say.

#[path = "../common/mod.rs"]
mod common;

mod anew;
mod checks;
mod clocks;
mod forged;
mod lives;
mod looks;
mod play;
mod records;
mod refused;
mod renewing;
mod repairs;
mod skew;
mod walk;
mod world;
