//! `poptap replay`: the server's side of a recorded session, played to a client, so that a client's fault is seen again without
//! the mailbox.
//!
//! ```text
//! records ─→ script ─→ answers ─┐
//! kept content ─→ body ─────────┴─→ serve ─→ the client
//! ```
//!
//! * `script` is what the record tells, in the order in which it was said; [`Cursor`] finds the answer to a command in it.
//! * `body` makes messages: what was kept, and behind it lines that stand for the rest.
//! * [`serve()`] speaks to clients.

mod body;
mod script;
mod serve;

pub use body::Message;
pub use script::{Answer, Cursor, Found, Script};
pub use serve::{Heard, Pace, Stage, Tell, serve};
