//! What a grant may have: the evaluator `admit` against tables, against its own words, and against a slow second
//! implementation that follows the fields' documentation to the letter.

#[path = "../common/mod.rs"]
mod common;

mod generated;
mod slow;
mod tables;
mod words;
