//! What is outstanding: commands that await their reply, and local replies that await their turn.

use std::sync::Arc;

use super::{Command, Keyword, Ordinal, Shape};

/// What a filter wants of the reply to a command, said when the command passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The status line, whole, before any of it goes on.
    pub status: bool,
    /// The lines of the body, each whole.
    pub body: bool,
    /// The shape of a `+OK` to a keyword that nobody knows, where the user has said it.
    pub shape: Option<Shape>,
}

impl Wants {
    /// The lines of the body.
    pub const BODY: Self = Self { status: false, body: true, shape: None };

    /// What either wants.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { status: self.status || other.status, body: self.body || other.body, shape: self.shape.or(other.shape) }
    }
}

/// One outstanding reply.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) n: Ordinal,
    pub(super) keyword: Keyword,
    pub(super) shape: Shape,
    pub(super) wants: Wants,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A command on its way to the server.
    Forwarded { irregular: bool },
    /// AUTH with a mechanism. `+OK` is a challenge while `ok_challenges`.
    Auth { ok_challenges: bool },
    /// XTND XMIT.
    Xmit,
    /// A command of the proxy's own.
    Own,
    /// Never sent to the server: this is its reply.
    Local(Arc<[u8]>),
    /// An STLS that is agreed to with this reply; never sent to the server.
    Handover(Arc<[u8]>),
    /// The last that the client gets; never sent to the server.
    Last(Arc<[u8]>),
}

impl Pending {
    /// A command of the client's; `line` is its text, as far as remembered, and the octets of the whole.
    pub(super) fn forwarded(n: Ordinal, command: &Command<'_>, (text, octets): (&[u8], u64), wants: Wants) -> Self {
        let kind = match command.keyword {
            Keyword::Auth if command.has_argument() => {
                let ntlm = command.arguments().next().is_some_and(|mechanism| mechanism.eq_ignore_ascii_case(b"NTLM"));
                Kind::Auth { ok_challenges: ntlm && command.arguments().count() == 1 }
            }
            Keyword::Xtnd if subcommand_is(command, b"XMIT") => Kind::Xmit,
            _ => Kind::Forwarded { irregular: is_irregular(command.keyword, text, octets) },
        };
        let said = wants.shape.filter(|_| command.keyword == Keyword::Unknown);
        Self { n, keyword: command.keyword, shape: said.unwrap_or_else(|| shape_on_ok(command)), wants, kind }
    }

    /// The reply to the message that follows XTND XMIT.
    pub(super) fn behind_data(head: &Self) -> Self {
        let kind = Kind::Forwarded { irregular: false };
        Self { n: head.n, keyword: head.keyword, shape: head.shape, wants: Wants::default(), kind }
    }

    pub(super) fn own(n: Ordinal, command: &Command<'_>) -> Self {
        let wants = Wants { status: true, body: true, shape: None };
        Self { n, keyword: command.keyword, shape: shape_on_ok(command), wants, kind: Kind::Own }
    }

    pub(super) fn local(n: Ordinal, keyword: Keyword, kind: Kind) -> Self {
        Self { n, keyword, shape: Shape::SingleLine, wants: Wants::default(), kind }
    }

    /// Whether its reply is ours.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local(_) | Kind::Handover(_) | Kind::Last(_))
    }

    /// Whether the proxy asked it.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Own)
    }

    /// Whether its reply decides what the client's next line is, or how it is to be judged.
    pub(super) fn gates(&self) -> bool {
        let decisive = matches!(self.keyword, Keyword::Auth | Keyword::Pass | Keyword::Apop | Keyword::Stls | Keyword::Xtnd);
        decisive && !self.is_local() || self.is_own()
    }
}

/// Command lines over this many octets get several replies from some servers, or are echoed.
const LONGEST_REGULAR: u64 = 512;

/// The shape of the reply to a command if its status is `+OK`.
fn shape_on_ok(command: &Command<'_>) -> Shape {
    let multi_line = match command.keyword {
        Keyword::Capa | Keyword::Retr | Keyword::Top => true,
        Keyword::List | Keyword::Uidl | Keyword::Lang | Keyword::Auth => !command.has_argument(),
        Keyword::Xtnd => subcommand_is(command, b"XLST"),
        _ => false,
    };
    if multi_line { Shape::MultiLine } else { Shape::SingleLine }
}

fn subcommand_is(command: &Command<'_>, word: &[u8]) -> bool {
    command.arguments().next().is_some_and(|argument| argument.eq_ignore_ascii_case(word))
}

/// Whether servers differ on how many replies the line gets: it is over-long, or holds a NUL or a bare CR.
fn is_irregular(keyword: Keyword, line: &[u8], octets: u64) -> bool {
    (octets > LONGEST_REGULAR && keyword != Keyword::Auth) || memchr::memchr2(0, b'\r', line).is_some()
}
