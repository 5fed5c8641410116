//! The transcript: events → redacted records → the store.
//!
//! A [`Recorder`] watches one session. It redacts by the kind of each event, measures what passes, and sends [`schema::Record`]s
//! through one bounded queue to the writer's thread, which appends them to segments and survives whatever the disk does.
//! Finished segments are compressed and removed by a thread of their own, and so is the live view fed. A roll-up of who
//! logged in (`audit`, `rollup`, `slot`) outlives them. Whoever looks on through a [`Broadcast`] gets the lines as they are written.

mod archive;
mod audit;
mod awaited;
mod broadcast;
mod clock;
mod content;
mod decided;
mod directory;
mod encode;
mod gap;
mod lane;
mod live;
mod noticed;
mod oddities;
mod outbox;
mod queue;
mod recorder;
mod redact;
mod retention;
pub(crate) mod rollup;
pub mod schema;
mod secrets;
mod segment;
mod side;
mod slot;
mod store;
mod summary;
#[cfg(test)]
mod tests;
mod throttle;
pub(crate) mod verbs;
mod writer;

pub use broadcast::{Broadcast, Subscription};
pub use noticed::Noticed;
pub use recorder::{Full, Recorder};
pub use store::{Beside, Condition, LiveView, Loss, Store, StoreError};
