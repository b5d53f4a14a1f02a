//! Valet issues signed, time-limited credentials for one object in an object store. Valet writes each credential into a
//! Secret in the namespace of the workload that needs it.
//!
//! Each module may import the modules above it (`hack/layers.py` checks that):
//!
//! | module | contains |
//! |---|---|
//! | [`api`] | the API types: custom resources, conditions, reasons, annotations, validation |
//! | [`core`] | the decision logic: a pure function of facts and time, without a client or a clock |
//! | [`telemetry`] | logs, metrics and health |
//! | [`reconcile`] | the execution of the decisions, with all reads and writes behind a trait |
//! | `fairness` | queues in which namespaces take turns, and permits with limits |
//! | [`net`] | HTTP clients, proxies and the egress policy |
//! | [`conformance`] | the check of what a store enforces |
//! | [`provider`] | object store back ends, one folder each |
//! | [`notifications`] | the receiver of object store notifications |
//! | [`controller`] | the controllers, the only module with a Kubernetes client |
//! | [`cli`] | the commands `controller`, `crds` and `sign` |
//!
//! `docs/architecture.md` describes how they work together.

pub mod api;
pub mod cli;
pub mod conformance;
pub mod controller;
pub mod core;
mod fairness;
pub mod net;
pub mod notifications;
pub mod provider;
pub mod reconcile;
pub mod telemetry;
