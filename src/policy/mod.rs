//! What poptap refuses or edits.

mod builtin;
mod mechanisms;

pub use builtin::{Builtin, ClientHop, Settings};
