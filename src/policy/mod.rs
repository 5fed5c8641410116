//! What poptap refuses or edits.

mod builtin;
mod mechanisms;
mod rules;

pub use builtin::{Builtin, ClientHop, Settings};
pub use rules::{Applicable, Compiled, Facts, Findings, Question, Rules, normalise};
