//! POP3 as RFC 1939 and its family define it, and as real servers speak it. Nothing here has ever heard of proxies.

mod body;
mod capability;
mod command;
pub(crate) mod identity;
mod line;
mod pending;
mod plain;
mod response;
mod tracker;

pub use body::{Body, Step};
pub use capability::{Capability, apop_timestamp};
pub use command::{Command, Keyword};
pub use line::LineEnd;
pub use pending::Wants;
pub(crate) use plain::Plain;
pub use response::Status;
pub use tracker::{ClientExpects, Labelled, Loss, Ordinal, Receiving, ServerExpects, Tracker};

/// Who spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The mail client.
    Client,
    /// The mail server.
    Upstream,
}

impl Peer {
    /// The one at the other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// The states of a session (RFC 1939 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the login (§4).
    Authorization,
    /// After it (§5).
    Transaction,
    /// After QUIT was answered (§6).
    Update,
}

/// The shape of a reply: known from the command and the status, never from its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A status line.
    SingleLine,
    /// A status line, then dot-stuffed lines up to `.` alone on a line.
    MultiLine,
}
