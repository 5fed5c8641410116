//! What the modules share.

pub mod odd;
pub mod play;
pub mod witness;
