//! What poptap refuses or edits.

mod builtin;

pub use builtin::{Builtin, Settings};
