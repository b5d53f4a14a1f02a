//! What a team has that keeps everything in git, and Flux to carry it out.

mod grants;
mod release;

pub use grants::grants;
pub use release::release;
