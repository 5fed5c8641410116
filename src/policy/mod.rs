//! What poptap refuses or edits.

mod builtin;
mod mechanisms;
mod memory;

pub use builtin::{Builtin, ClientHop, Settings};
pub use memory::{Account, Mark, Memory, MemoryError};
