//! Tests of the status that Helm, Argo CD and Flux derive from grants and stores. The tests run the rules and engines
//! of these tools on real objects in every state.

mod helm;
mod states;

use valet_test_support::world;
