//! Valet hands out valet keys: a workload that has to put or get one object in an object store gets a signed,
//! scoped, time-limited URL for exactly that, in a Secret of its own namespace.
//!
//! The map, in the order in which a grant passes through:
//!
//! | module | is | imports |
//! |---|---|---|
//! | [`api`] | the words: kinds, status, reasons, annotation keys | nothing of ours |
//! | [`record`] | authenticates what Valet wrote about a grant | `api` |
//! | [`grant`] | the judgement: facts and time in, one step out; no client, no clock | `api` |
//! | [`sign`] | the pen: one small trait, one file a provider, a URL that cannot be printed | `api`, `grant`'s requests |
//! | [`store`] | the far side: which provider, whose credentials, until when | `api`, `sign` |
//! | [`controller`] | the hands: the only part with a Kubernetes client | all of the above |
//! | [`telemetry`] | the windows: logs, metrics, health | `api` |
//! | [`cli`] | the verbs: `controller`, `crds`, `sign` | all of the above |
//!
//! `docs/architecture.md` draws the way of a grant.
#![warn(missing_docs)]

pub mod api;
pub mod cli;
pub mod controller;
pub mod grant;
pub mod record;
pub mod sign;
pub mod store;
pub mod telemetry;
