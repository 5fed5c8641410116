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
//! * `pace` spreads octets over the time that they took.
//! * [`serve()`] speaks to clients, in clear or inside TLS.

mod body;
mod pace;
mod script;
mod serve;

pub use body::Message;
pub use pace::Pace;
pub use script::{Answer, Begin, Cursor, Found, Script, Timed};
pub use serve::{Heard, Security, Stage, Tell, serve};
