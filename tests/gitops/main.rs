//! Tests of the status that Helm, Argo CD and Flux derive from grants and stores. The tests run the rules and engines
//! of these tools on real objects in every state.

#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "this binary uses its part")]
mod world;

mod helm;
mod states;
