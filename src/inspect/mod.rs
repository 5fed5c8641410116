//! Reading transcripts: the live view, and the commands below `sessions`.
//!
//! ```text
//! a record that is passing ── live ──┐
//!                                    ├─→ render ─→ paint ─→ a terminal, a pipe
//! store ─→ lines ─→ find ─→ show ────┘
//!         ├─→ search ─→ list, grep        tail ─→ follow
//!         └─→ stats
//! ```
//!
//! * `store` finds the segments of a directory, whichever stage of their life they are in (open, finished, compressed).
//! * `lines` reads one segment line by line in bounded memory; torn, unreadable and foreign lines are skipped, counted, and
//!   reported once for each file.
//! * `find` resolves the prefix of an id, and finds the newest session.
//! * [`filter`] is the language of expressions; `search` finds what they mean in a store, `candidates` those for which
//!   their commands decide, `scan` reads lines without a parser, `tail` reads one that grows.
//! * [`list()`], [`grep()`], [`follow()`] and [`show()`] are commands; [`Terminal`] is the live view.
//! * `render` turns one record into lines of text; `pairing` decides which of them bear their command's number.
//! * `paint` holds those lines, escapes control characters once more, and colours them where that is wanted.
//! * `brief` reads as much of a summary as sums need; [`stats()`] and [`audit()`] add them up, `counts` by names without number.
//! * [`export()`] writes one session for other programs, [`scrub()`] copies sessions without what names anybody.
//! * [`diff()`] compares two sessions.
//! * [`recent()`] reads the summaries at the end of a store, for the live page.
//! * `kept` reads the message content that was kept.
//! * [`human`] says numbers as people do.
//!
//! Nothing here interprets what a client or server sent: texts come escaped from the transcript and are shown as they are.

mod audit;
mod brief;
mod candidates;
mod counts;
mod diff;
mod error;
mod export;
mod figures;
pub mod filter;
mod find;
mod follow;
mod grep;
pub mod human;
mod kept;
mod lines;
mod list;
mod live;
mod message;
mod paint;
mod pairing;
mod progress;
mod recent;
mod render;
mod scan;
mod scrub;
mod search;
mod show;
mod stats;
mod store;
mod table;
mod tail;
#[cfg(test)]
mod testing;
mod view;

pub use audit::{Audited, Form, audit};
pub use diff::{Comparison, Timing, diff};
pub use error::InspectError;
pub use export::{Export, ExportError, ExportFormat, export};
pub use follow::follow;
pub use grep::{count, grep};
pub(crate) use kept::Kept;
pub use list::{Selection, list};
pub use live::Terminal;
pub use recent::recent;
pub use scrub::{Scrub, scrub};
pub use show::{Which, each_record, each_record_since, show};
pub use stats::{Span, Summing, stats};
pub use store::ago;
pub use view::View;
