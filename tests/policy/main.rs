//! Tests of `admit`, which decides what a grant may have. They compare it with tables, with its own messages, and
//! with a slow second implementation of the documented rules.

mod generated;
mod messages;
mod slow;
mod tables;

use valet_test_support::grants as common;
