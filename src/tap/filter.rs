//! Who may change what passes: the [`Filter`].

use std::{ops::Deref, sync::Arc};

use super::{Action, Ordinal, Script, Violation, ViolationKind};
use crate::pop3::{Command, Keyword, Stage, Status, Wants};

/// Somebody who may refuse, answer or edit.
///
/// A filter sees commands on their way, and the lines of those replies which it asked for when the *command* passed; other
/// bodies are never cut into lines, so a message that looks like a capability listing stays as it is.
pub trait Filter {
    /// Whether the session fails closed, and with which caps: then every command line is judged whole or refused, and lines
    /// behind an unresolved AUTH, PASS, APOP, STLS or XTND wait.
    fn caps(&self) -> Option<Caps> {
        None
    }

    /// May the line that begins so become one that the filter wants whole before any of it is forwarded? Not asked where the
    /// session fails closed.
    ///
    /// Asked with at most [`REMEMBERED`](super::REMEMBERED) octets, and with the line end where the line is complete; `first` says that it is the session's first.
    fn hold(&self, beginning: &[u8], first: bool) -> Hold;

    /// What becomes of a command that it held.
    fn command(&mut self, command: &Command<'_>, context: Context) -> Verdict;

    /// A command was forwarded that the filter was not asked about or does not hold: for whoever only watches. The line may have
    /// been cut to its beginning.
    fn passed(&mut self, _command: &Command<'_>, _context: Context) {}

    /// What becomes of a SASL response of AUTH `auth`: the line without its end, or, where `whole` is false, the beginning of a
    /// line that is longer than [`LONGEST_JUDGED`](super::LONGEST_JUDGED). Asked where the session fails closed, or the filter
    /// [hears](Filter::hears_responses) them.
    fn sasl(&mut self, _auth: Ordinal, _line: &[u8], _whole: bool) -> SaslVerdict {
        SaslVerdict::Forward
    }

    /// Whether it is asked about SASL responses where the session does not fail closed. Then each is held until it is whole, and
    /// lines behind an unresolved AUTH wait.
    fn hears_responses(&self) -> bool {
        false
    }

    /// A SASL response of AUTH `auth` was forwarded that the filter was not asked about: its beginning, and whether that is all.
    fn responded(&mut self, _auth: Ordinal, _line: &[u8], _whole: bool) {}

    /// A status line that the server sent, before any edit; asked once for each reply.
    fn replied(&mut self, _reply: Replied<'_>) -> After {
        After::GoOn
    }

    /// A piece of the listing that answers LIST, as the server sent it, cut anywhere.
    fn listed(&mut self, _n: Ordinal, _octets: &[u8]) {}

    /// The login that was just accepted: what is to be asked of the server before the client hears of it. Asked only where the
    /// filter wanted the status line of the login.
    fn ask_first(&mut self) -> Option<Question> {
        None
    }

    /// The answer to a [`Question`], or a line of it; the line end is included.
    fn told(&mut self, _told: Told<'_>) {}

    /// The answer is complete: what else there is to ask, or what becomes of the login.
    fn ask_next(&mut self) -> Asked {
        Asked::Enough
    }

    /// The server's greeting, before any edit. The answer says whether it is to be edited: then [`Filter::response_line`] is asked.
    fn greeting(&mut self, line: &[u8]) -> bool;

    /// What becomes of a status line (its line end included) that it wants whole.
    fn status_line(&mut self, _reply: Replying, _line: &[u8]) -> Edit {
        Edit::Keep
    }

    /// What becomes of one line (its line end included) of a reply that it wants to edit.
    fn response_line(&mut self, reply: Replying, line: &[u8]) -> Edit;

    /// A line to put behind the last one of a reply that it wants to edit, before the terminator; asked until there is none.
    fn last_line(&mut self, _reply: Replying) -> Option<Addition> {
        None
    }

    /// What else was decided about what was just asked; asked until there is nothing.
    fn note(&mut self) -> Option<Note> {
        None
    }

    /// Whether the session may go on when it can no longer be understood: then nobody can refuse anything any more.
    ///
    /// # Errors
    ///
    /// Why it may not.
    fn bears_opaque(&self) -> Result<(), ViolationKind> {
        Ok(())
    }
}

/// The longest lines that a session which fails closed lets pass, line ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Of a command, in octets; less than [`SMALL`](super::SMALL).
    pub command: usize,
    /// Of a SASL response, and of an AUTH with an initial response (RFC 5034 §4), in octets.
    pub sasl: u64,
}

/// Who decided: a short fixed name of poptap's own, or the name of one of the user's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One of poptap's own.
    BuiltIn(&'static str),
    /// One of the user's.
    Named(Arc<str>),
}

impl Deref for Rule {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::BuiltIn(name) => name,
            Self::Named(name) => name,
        }
    }
}

/// Which reply a line belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Replying {
    /// The number of the command that is answered; 0 for the greeting.
    pub n: Ordinal,
    /// The keyword of the command that is answered; `None` for the greeting.
    pub keyword: Option<Keyword>,
    /// The stage when the line passes.
    pub stage: Stage,
}

/// A status line of the server's.
#[derive(Clone, Copy, Debug)]
pub struct Replied<'a> {
    /// The number of the command that is answered.
    pub n: Ordinal,
    /// Its keyword.
    pub keyword: Keyword,
    /// The status; `None` for a line that has none.
    pub status: Option<Status>,
    /// The stage behind it.
    pub stage: Stage,
    /// The beginning of the line, without its end.
    pub line: &'a [u8],
}

/// What follows from a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: it passes.
    GoOn,
    /// It passes when so many milliseconds are over. Only where its status line is wanted.
    Delay(u64),
    /// This goes to the client in its place, as the last that it gets. Only where its status line is wanted.
    Dismiss {
        /// The text, line end included.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
}

/// A command of the proxy's own, line end included.
pub type Question = &'static [u8];

/// What the server said to a [`Question`].
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// The status line.
    Status(Option<Status>),
    /// A line of the body.
    Line(&'a [u8]),
}

/// What follows from all that the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ask this, too.
    Next(Question),
    /// The client hears of its login.
    Enough,
    /// The client is told this in place of its login, and is dismissed.
    Dismiss {
        /// The text, line end included.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
}

/// A line of poptap's own in a reply of the server's.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The line, line end included.
    pub text: Arc<[u8]>,
    /// The rule that decided.
    pub rule: Rule,
}

/// Something that was decided besides the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What was done, or would have been.
    pub action: Action,
    /// The rule that decided.
    pub rule: Rule,
    /// Whether it was done.
    pub enforced: bool,
    /// A word of the rule's.
    pub tag: Option<Arc<str>>,
}

/// What is known when a command is judged.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The number that the line will have, or has.
    pub n: Ordinal,
    /// The stage, as far as the replies so far have told.
    pub stage: Stage,
    /// Whether it is the session's first line.
    pub first: bool,
    /// Whether all that was asked before is answered.
    pub idle: bool,
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
    Forward(Wants),
    /// Another line is forwarded in its place. Only where the session fails closed.
    Rewrite {
        /// The line, line end included.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
        /// What is wanted of the reply.
        wants: Wants,
    },
    /// It is not forwarded. This reply, line ends included, is sent in its turn.
    Answer {
        /// The whole reply.
        text: Arc<[u8]>,
        /// What the reply does.
        action: Action,
        /// The rule that decided.
        rule: Rule,
    },
    /// It is not forwarded. This reply is sent in its turn, and is the last that the client gets.
    Dismiss {
        /// The whole reply.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
    /// An STLS that is not forwarded: TLS starts on the client's hop alone, behind this reply, which is sent in its turn.
    StartTls {
        /// The whole reply.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
    /// It is a login, and is held until its server is reached; what that is told is the script. Without one the client is asked
    /// for its SASL response first. Only where the session fails closed.
    Login {
        /// What the server is told.
        script: Option<Script>,
        /// What is wanted of the reply.
        wants: Wants,
    },
    /// Ask again when something has been answered. Only where commands are outstanding.
    Wait,
    /// The session is closed.
    Close(Violation),
}

/// What becomes of a SASL response.
#[derive(Clone, Debug)]
pub enum SaslVerdict {
    /// It is forwarded.
    Forward,
    /// The exchange is cancelled with `*` in its place (RFC 5034 §4); the status line of the AUTH is wanted. Only for a whole
    /// line.
    Cancel {
        /// The rule that decided.
        rule: Rule,
    },
    /// It completes a login that is held; only for a whole line.
    Login {
        /// What the server is told.
        script: Script,
    },
    /// A login that is held ends with this reply.
    Refuse {
        /// The text, line end included.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
    /// It is not forwarded, and this is the last that the client gets.
    Dismiss {
        /// The text, line end included.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
    },
}

/// What becomes of a line of a reply.
#[derive(Clone, Debug)]
pub enum Edit {
    /// It passes.
    Keep,
    /// It is left out.
    Remove {
        /// The rule that decided.
        rule: Rule,
    },
    /// It is replaced by this text, line end included.
    Replace {
        /// The line in its place.
        text: Arc<[u8]>,
        /// The rule that decided.
        rule: Rule,
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
        Verdict::Forward(Wants::default())
    }

    fn greeting(&mut self, _line: &[u8]) -> bool {
        false
    }

    fn response_line(&mut self, _reply: Replying, _line: &[u8]) -> Edit {
        Edit::Keep
    }
}
