//! What the modules share.

pub mod play;
pub mod witness;
