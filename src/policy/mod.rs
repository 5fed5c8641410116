//! What poptap refuses or edits.

mod builtin;
mod filter;
mod front;
mod guard;
mod login;
mod maildrop;
mod mechanisms;
mod memory;
mod replies;
mod rules;
mod ruling;
mod shield;
mod terms;
mod trial;

pub use builtin::{BUILT_IN_EDITS, Builtin, ClientHop, ListenerHop, Settings};
pub use filter::Policy;
pub(crate) use front::FrontTerms;
pub use memory::{Account, Mark, Memory, MemoryError};
pub use rules::{Applicable, Compiled, Facts, Findings, Question, Rules, normalise};
pub use ruling::message_in;
pub use terms::Terms;
pub use trial::{Decided, Outcome, Script, Trial};
