//! What Helm, Argo CD and Flux make of grants and stores: their own rules and engines, run on real objects in every state.

#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "this binary uses its part")]
mod world;

mod helm;
mod states;
