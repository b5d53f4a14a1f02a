//! Builders and helpers that the tests of Valet share.
//!
//! - [`grants`] builds grants, stores and access rules for tests of the decision logic.
//! - [`access`] builds values of `Access` for tests of providers.
//! - [`world`] runs a control plane, a store and operators, with one namespace for each test.
//! - [`fixtures`] reads the table of changes that the CEL rules must refuse or allow, and [`rules`] lists the CEL rules of
//!   a schema.

pub mod access;
pub mod fixtures;
pub mod grants;
pub mod rules;
pub mod world;
