//! Reading transcripts: the live view, `sessions list`, `sessions show` and `sessions stats`.
//!
//! ```text
//! a record that is passing ── live ──┐
//!                                    ├─→ render ─→ paint ─→ a terminal, a pipe
//! store ─→ lines ─→ find ─→ show ────┘
//!               └─→ list
//! ```
//!
//! * `store` finds the segments of a directory, whichever stage of their life they are in (open, finished, compressed).
//! * `lines` reads one segment line by line in bounded memory; torn, unreadable and foreign lines are skipped, counted, and
//!   reported once for each file.
//! * `find` resolves the prefix of an id, and finds the newest session.
//! * [`list()`] and [`show()`] are the two commands; [`Terminal`] is the live view.
//! * `render` turns one record into lines of text; `pairing` decides which of them bear their command's number.
//! * `paint` holds those lines, escapes control characters once more, and colours them where that is wanted.
//! * [`diff()`] compares two sessions.
//! * `kept` reads the message content that was kept.
//! * [`human`] says numbers as people do.
//!
//! Nothing here interprets what a client or server sent: texts come escaped from the transcript and are shown as they are.

mod diff;
mod error;
mod find;
pub mod human;
mod kept;
mod lines;
mod list;
mod live;
mod paint;
mod pairing;
mod render;
mod show;
mod stats;
mod store;
#[cfg(test)]
mod testing;
mod view;

pub use diff::{Comparison, Timing, diff};
pub use error::InspectError;
pub(crate) use kept::Kept;
pub use list::list;
pub use live::Terminal;
pub use show::{Which, each_record, show};
pub use stats::stats;
pub use store::ago;
pub use view::View;
