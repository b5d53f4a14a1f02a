//! Tests of teams that keep all objects in git and use Flux.

mod grants;
mod release;

pub use grants::grants;
pub use release::release;
