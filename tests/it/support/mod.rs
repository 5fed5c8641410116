//! What the modules share.

pub mod play;
pub mod process;
pub mod witness;
