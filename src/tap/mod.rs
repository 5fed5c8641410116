//! The tap.
mod observe;
pub use observe::*;
