//! Who may change what passes: the [`Filter`].

use std::sync::Arc;

use super::Violation;
use crate::pop3::{Command, Keyword, Stage};

/// Somebody who may refuse, answer or edit.
///
/// A filter sees commands on their way, and the lines of those replies which it asked for when the *command* passed; other
/// bodies are never cut into lines, so a message that looks like a capability listing stays as it is.
pub trait Filter {
    /// May the line that begins so become one that the filter wants whole before any of it is forwarded?
    ///
    /// Asked with at most [`REMEMBERED`](super::REMEMBERED) octets, and with the line end where the line is complete; `first` says that it is the session's first.
    fn hold(&self, beginning: &[u8], first: bool) -> Hold;

    /// What becomes of a command that it held, or that arrived in one piece.
    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict;

    /// The server's greeting, before any edit. The answer says whether it is to be edited: then [`Filter::response_line`] is asked.
    fn greeting(&mut self, line: &[u8]) -> bool;

    /// What becomes of one line (its line end included) of a reply that it wants to edit.
    fn response_line(&mut self, reply: Replying, line: &[u8]) -> Edit;

    /// A line to put behind the last one of a reply that it wants to edit, before the terminator.
    fn last_line(&mut self, _reply: Replying) -> Option<Addition> {
        None
    }

    /// Whether the session may go on when it can no longer be understood: then nobody can refuse anything any more.
    fn bears_opaque(&self) -> bool {
        true
    }
}

/// Which reply a line belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Replying {
    /// The keyword of the command that is answered; `None` for the greeting.
    pub keyword: Option<Keyword>,
    /// The stage when the line passes.
    pub stage: Stage,
}

/// A line of poptap's own in a reply of the server's.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The line, line end included.
    pub text: Arc<[u8]>,
    /// The rule that decided.
    pub rule: &'static str,
}

/// What is known when a command is judged.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The stage, as far as the replies so far have told.
    pub stage: Stage,
    /// Whether it is the session's first line.
    pub first: bool,
}

/// The answer of [`Filter::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Not of interest: forward it as it comes.
    Stream,
    /// More octets are needed to tell.
    More,
    /// This is enough: ask [`Filter::command`] now.
    Decide,
}

/// What becomes of a command.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is forwarded.
    Forward,
    /// It is forwarded, and the lines of its reply's body are to be edited.
    ForwardAndEdit,
    /// It is not forwarded. This reply, line ends included, is sent in its turn.
    Answer {
        /// The whole reply.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: &'static str,
    },
    /// An STLS that is not forwarded: TLS starts on the client's hop alone, behind this reply, which is sent in its turn.
    StartTls {
        /// The whole reply.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: &'static str,
    },
    /// The session is closed.
    Close(Violation),
}

/// What becomes of a line of a reply.
#[derive(Clone, Debug)]
pub enum Edit {
    /// It passes.
    Keep,
    /// It is left out.
    Remove {
        /// The rule that decided.
        rule: &'static str,
    },
    /// It is replaced by this text, line end included.
    Replace {
        /// The line in its place.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: &'static str,
    },
}

/// The filter that changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untouched;

impl Filter for Untouched {
    fn hold(&self, _beginning: &[u8], _first: bool) -> Hold {
        Hold::Stream
    }

    fn command(&mut self, _command: &Command<'_>, _context: Context) -> Verdict {
        Verdict::Forward
    }

    fn greeting(&mut self, _line: &[u8]) -> bool {
        false
    }

    fn response_line(&mut self, _reply: Replying, _line: &[u8]) -> Edit {
        Edit::Keep
    }
}
