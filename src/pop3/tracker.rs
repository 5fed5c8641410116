//! The state of a session: which reply belongs to which command, and what either side may send next.
//!
//! All transitions stand here; a state is named for what it awaits. The tracker labels, it never decides what is forwarded:
//! real servers send none, one, two or three replies to one line. Where the pairing can no longer be known it says so, once
//! and for good, with [`Labelled::Lost`].

mod login;

use std::{collections::VecDeque, sync::Arc};

use super::{
    Body, Command, Keyword, LineEnd, Shape, Stage, Status,
    pending::{Kind, Pending, Wants},
};

/// The number of a client's line in its session, from 1.
pub type Ordinal = u64;

/// Tracks one session.
#[derive(Debug)]
pub struct Tracker {
    greeted: bool,
    stage: Stage,
    mode: Mode,
    last: Ordinal,
    /// Commands that await their reply, and local replies that await their turn. `pending.len() + doubtful.len() ≤ cap`, or
    /// more by the lines of one read.
    pending: VecDeque<Pending>,
    /// An AUTH that is not settled; all client lines behind it are in `doubtful` until it is.
    auth: Option<Ordinal>,
    doubtful: VecDeque<Pending>,
    /// Challenges whose response has not been sent.
    responses_due: usize,
    /// The reply body that is being received.
    body: Option<Receiving>,
    /// Unsolicited status lines, and lines that are no status lines, since the last reply.
    surplus: usize,
    strays: usize,
    layer_possible: bool,
    quit: bool,
    cap: usize,
}

/// What the session as a whole awaits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Command lines and replies.
    Lines,
    /// The reply to an STLS that was forwarded.
    StlsReply,
    /// The client's TLS handshake, agreed on by the server.
    Handshake,
    /// The turn of the reply with which an STLS is agreed to on this hop alone.
    HandoverReply,
    /// The client's TLS handshake with us: that reply has its place.
    Handover,
    /// The turn of the last reply that the client gets.
    LastReply,
    /// The end: the client has its last reply.
    Dismissed,
    /// A message from the client, behind XTND XMIT.
    ClientData(Ordinal),
    /// Nothing that is understood.
    Opaque,
}

/// A multi-line reply whose body is being received.
#[derive(Debug)]
pub struct Receiving {
    /// The command that is answered.
    pub n: Ordinal,
    /// Its keyword.
    pub keyword: Keyword,
    /// Whether the filter wants its lines.
    pub edit: bool,
    /// Whether the proxy asked, so that the client gets none of it.
    pub own: bool,
    /// Whether the filter was asked what to add behind the last line.
    pub added: bool,
    /// The scanner.
    pub body: Body,
}

/// What the client's next octets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientExpects {
    /// A command line.
    Command,
    /// A SASL response: a challenge awaits it.
    SaslResponse(Ordinal),
    /// A line behind an unsettled AUTH: a response or a command, and no one can tell yet.
    Doubtful(Ordinal),
    /// Nothing: they are to be held until the server has answered STLS.
    Nothing,
    /// A TLS handshake record.
    Handshake,
    /// A piece of a message, behind XTND XMIT.
    Data(Ordinal),
    /// Anything; nobody can tell.
    Anything,
}

/// What the server's next octets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerExpects {
    /// The greeting.
    Greeting,
    /// A status line, or a challenge.
    Status,
    /// A piece of a body.
    Body,
    /// Nothing, until the client's handshake has begun.
    Nothing,
    /// Whatever it is, it has to wait until TLS stands on the client's hop.
    Held,
    /// Anything; nobody can tell.
    Anything,
}

/// What a line of the server's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// The greeting.
    Greeting(Option<Status>),
    /// A SASL challenge of this AUTH.
    Challenge(Ordinal),
    /// A reply.
    Reply {
        /// The command that is answered.
        n: Ordinal,
        /// Its keyword.
        keyword: Keyword,
        /// The status; `None` where the line is none but can only be this reply.
        status: Option<Status>,
        /// Whether a body follows.
        shape: Shape,
    },
    /// It answers nothing.
    Unsolicited(Option<Status>),
    /// Pairing is lost; the tracker is opaque from this line on.
    Lost(Loss),
}

/// Why pairing was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A line that is neither a reply nor expected.
    UnexpectedLine,
    /// More replies than commands.
    TooManyReplies,
    /// A reply to a line that can get any number of replies, with commands behind it.
    AmbiguousCommand,
}

impl Tracker {
    /// A session that awaits its greeting; at most `cap` commands may await their replies.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            greeted: false,
            stage: Stage::Authorization,
            mode: Mode::Lines,
            last: 0,
            pending: VecDeque::new(),
            auth: None,
            doubtful: VecDeque::new(),
            responses_due: 0,
            body: None,
            surplus: 0,
            strays: 0,
            layer_possible: false,
            quit: false,
            cap,
        }
    }

    /// The stage, as far as the replies so far have told.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the greeting has come.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the session is no longer understood.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.mode == Mode::Opaque
    }

    /// Whether a QUIT was answered with `+OK`.
    #[must_use]
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// Whether as many commands await their replies as may. A SASL response that is due is none, and the server waits for it.
    #[must_use]
    pub fn is_at_cap(&self) -> bool {
        self.responses_due == 0 && self.pending.len() + self.doubtful.len() >= self.cap
    }

    /// Whether the server owes a reply, or the rest of one.
    #[must_use]
    pub fn awaits_server(&self) -> bool {
        !(self.pending.is_empty() && self.doubtful.is_empty() && self.body.is_none())
    }

    /// How many lines of the client's were numbered.
    #[must_use]
    pub fn lines(&self) -> Ordinal {
        self.last
    }

    /// Whether a security layer may be in force: an octet 0 at the start of a line proves it.
    #[must_use]
    pub fn layer_possible(&self) -> bool {
        self.layer_possible
    }

    /// What the client's next octets are.
    #[must_use]
    pub fn client_expects(&self) -> ClientExpects {
        match (self.mode, self.auth) {
            (Mode::Opaque, _) => ClientExpects::Anything,
            (Mode::StlsReply | Mode::HandoverReply | Mode::Handover | Mode::LastReply | Mode::Dismissed, _) => {
                ClientExpects::Nothing
            }
            (Mode::Handshake, _) => ClientExpects::Handshake,
            (Mode::ClientData(n), _) => ClientExpects::Data(n),
            (Mode::Lines, Some(auth)) if self.responses_due > 0 => ClientExpects::SaslResponse(auth),
            (Mode::Lines, Some(auth)) => ClientExpects::Doubtful(auth),
            (Mode::Lines, None) => ClientExpects::Command,
        }
    }

    /// What the server's next octets are.
    #[must_use]
    pub fn server_expects(&self) -> ServerExpects {
        match self.mode {
            Mode::Opaque => ServerExpects::Anything,
            Mode::Handshake => ServerExpects::Nothing,
            Mode::Handover | Mode::Dismissed => ServerExpects::Held,
            _ if self.body.is_some() => ServerExpects::Body,
            _ if self.greeted => ServerExpects::Status,
            _ => ServerExpects::Greeting,
        }
    }

    // ── the client's side ──

    /// A command was forwarded. `octets` counts the whole line; `wants` says what the filter wants of its reply.
    pub fn command(&mut self, command: &Command<'_>, line: &[u8], octets: u64, wants: Wants) -> Ordinal {
        let pending = self.number(command, line, octets, wants);
        let n = pending.n;
        self.await_reply(pending);
        n
    }

    /// A command was refused; `text` is its reply, to be sent in its turn.
    pub fn answer(&mut self, keyword: Keyword, text: Arc<[u8]>) -> Ordinal {
        self.local(keyword, Kind::Local(text))
    }

    /// A command was refused, and nothing more is taken from the client; `text` is the last that it gets, in its turn.
    pub fn dismiss(&mut self, keyword: Keyword, text: Arc<[u8]>) -> Ordinal {
        self.mode = Mode::LastReply;
        self.local(keyword, Kind::Last(text))
    }

    /// Like [`Tracker::dismiss`], for a line within an exchange: the server may be waiting for it, so that the AUTH gets no other
    /// reply than `text`.
    pub fn dismiss_in_exchange(&mut self, text: Arc<[u8]>) -> Ordinal {
        if let Some(auth) = self.auth.take() {
            self.pending.retain(|pending| pending.n != auth);
        }
        self.doubtful.clear();
        self.responses_due = 0;
        self.dismiss(Keyword::Auth, text)
    }

    /// The client was told the last that it gets, in place of a reply of the server's.
    pub fn dismissed(&mut self) {
        self.mode = Mode::Dismissed;
    }

    /// The proxy asks on its own account; nothing else may be outstanding.
    pub fn ask(&mut self, command: &Command<'_>) -> Ordinal {
        self.last += 1;
        self.pending.push_back(Pending::own(self.last, command));
        self.last
    }

    fn local(&mut self, keyword: Keyword, kind: Kind) -> Ordinal {
        self.last += 1;
        self.pending.push_back(Pending::local(self.last, keyword, kind));
        self.last
    }

    /// An STLS was agreed to on this hop alone; `text` is its reply, to be sent in its turn. Nothing of the client's may follow it.
    pub fn agree_to_stls(&mut self, text: Arc<[u8]>) -> Ordinal {
        self.mode = Mode::HandoverReply;
        self.local(Keyword::Stls, Kind::Handover(text))
    }

    /// TLS stands on the client's hop: a new session begins, except that its greeting has been given and lines are numbered on.
    /// `greeted` is false where another connection to the server was made for it.
    pub fn secured(&mut self, greeted: bool) {
        *self = Self { greeted, last: self.last, ..Self::new(self.cap) };
    }

    /// Whether the client is not to be read: an STLS was agreed to on this hop and TLS does not stand, or it is being dismissed.
    #[must_use]
    pub fn holds_client(&self) -> bool {
        self.agrees_to_stls() || matches!(self.mode, Mode::LastReply | Mode::Dismissed)
    }

    /// Whether an STLS was agreed to on this hop, and TLS does not stand yet.
    #[must_use]
    pub fn agrees_to_stls(&self) -> bool {
        matches!(self.mode, Mode::HandoverReply | Mode::Handover)
    }

    /// Whether the client has got the last that it gets.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.mode == Mode::Dismissed
    }

    /// Whether a command is outstanding whose reply decides what the client's next line is, or in which stage and for whom it is
    /// to be judged: AUTH, PASS, APOP, STLS, XTND.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.auth.is_some() || self.pending.back().is_some_and(Pending::gates)
    }

    /// The status line of AUTH `n` is wanted whole.
    pub fn want_status(&mut self, n: Ordinal) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.n == n) {
            pending.wants.status = true;
        }
    }

    /// Whether the client's handshake with us is due.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.mode == Mode::Handover
    }

    /// A line was forwarded while an AUTH is unsettled.
    pub fn sasl_line(&mut self, command: &Command<'_>, line: &[u8], octets: u64) -> Ordinal {
        let pending = self.number(command, line, octets, Wants::default());
        let n = pending.n;
        if self.responses_due > 0 {
            self.responses_due -= 1;
        } else {
            self.doubtful.push_back(pending);
        }
        n
    }

    /// The client's message behind XTND XMIT is over.
    pub fn client_data_ended(&mut self) {
        self.mode = Mode::Lines;
    }

    fn number(&mut self, command: &Command<'_>, line: &[u8], octets: u64, wants: Wants) -> Pending {
        self.last += 1;
        Pending::forwarded(self.last, command, (line, octets), wants)
    }

    fn await_reply(&mut self, pending: Pending) {
        match (&pending.kind, pending.keyword) {
            (Kind::Auth { .. }, _) => self.auth = Some(pending.n),
            (_, Keyword::Stls) => self.mode = Mode::StlsReply,
            _ => {}
        }
        self.pending.push_back(pending);
    }

    // ── the server's side ──

    /// Whether it is a local reply's turn: all that was asked before it is answered.
    #[must_use]
    pub fn has_local_next(&self) -> bool {
        self.greeted && self.body.is_none() && self.pending.front().is_some_and(Pending::is_local)
    }

    /// Whether it is the turn of the reply that agrees to an STLS on this hop.
    #[must_use]
    pub fn has_handover_next(&self) -> bool {
        self.has_local_next() && matches!(self.pending.front(), Some(Pending { kind: Kind::Handover(_), .. }))
    }

    /// Whether the next status line is wanted whole, and whether the proxy itself asked for it.
    #[must_use]
    pub fn wants_status(&self) -> (bool, bool) {
        self.pending.front().map_or((false, false), |head| (head.wants.status, head.is_own()))
    }

    /// Takes the local reply whose turn it is.
    pub fn take_local(&mut self) -> Option<(Ordinal, Arc<[u8]>)> {
        if !self.has_local_next() {
            return None;
        }
        match self.pending.pop_front() {
            Some(Pending { n, kind: Kind::Local(text), .. }) => Some((n, text)),
            Some(Pending { n, kind: Kind::Handover(text), .. }) => {
                self.mode = Mode::Handover;
                Some((n, text))
            }
            Some(Pending { n, kind: Kind::Last(text), .. }) => {
                self.mode = Mode::Dismissed;
                Some((n, text))
            }
            _ => None,
        }
    }

    /// Labels a line of the server's at which a status line is expected; `line` is its beginning without its line end.
    pub fn status_line(&mut self, line: &[u8], end: LineEnd) -> Labelled {
        let status = Status::of(line);
        if !self.greeted {
            self.greeted = true;
            return Labelled::Greeting(status.filter(|&status| status != Status::Continue));
        }
        let alone = self.is_head_alone();
        let Some(head) = self.pending.front_mut() else { return self.unsolicited(status) };
        match (&mut head.kind, status) {
            (Kind::Auth { .. }, Some(Status::Continue)) => self.challenge(),
            (Kind::Auth { ok_challenges: ok @ true }, Some(Status::Ok)) => {
                *ok = false;
                self.challenge()
            }
            (Kind::Forwarded { irregular: true }, _) if !alone => Labelled::Lost(Loss::AmbiguousCommand),
            (Kind::Forwarded { irregular: true }, None | Some(Status::Continue)) => self.reply(None, end),
            (_, Some(Status::Ok | Status::Err)) => self.reply(status, end),
            (_, None | Some(Status::Continue)) => Labelled::Lost(Loss::UnexpectedLine),
        }
    }

    /// The body that is being received, if one is.
    pub fn receiving(&mut self) -> Option<&mut Receiving> {
        self.body.as_mut()
    }

    /// The body is over, or the server went in the middle of it.
    pub fn body_ended(&mut self) {
        self.body = None;
    }

    /// A line that was taken for a SASL response, and is a command since AUTH was settled before it; call until `None`.
    pub fn next_resolved(&mut self) -> Option<(Ordinal, Keyword)> {
        if self.auth.is_some() {
            return None;
        }
        let pending = self.doubtful.pop_front()?;
        let resolved = (pending.n, pending.keyword);
        self.await_reply(pending);
        Some(resolved)
    }

    /// The client's handshake has begun, or pairing was lost otherwise. Returns how many local replies were never sent.
    pub fn go_opaque(&mut self) -> usize {
        let dropped = self.pending.iter().filter(|pending| pending.is_local()).count();
        self.pending = VecDeque::new();
        self.doubtful = VecDeque::new();
        (self.auth, self.body, self.mode, self.greeted) = (None, None, Mode::Opaque, true);
        dropped
    }

    /// Whether commands stand behind an STLS that the server has agreed to.
    #[must_use]
    pub fn has_commands_behind_stls(&self) -> bool {
        self.mode == Mode::Handshake && !(self.pending.is_empty() && self.doubtful.is_empty())
    }

    /// Whether nothing that was sent to the server stands behind the head.
    fn is_head_alone(&self) -> bool {
        let irregular = matches!(self.pending.front(), Some(Pending { kind: Kind::Forwarded { irregular: true }, .. }));
        irregular && self.pending.iter().skip(1).all(Pending::is_local)
    }

    fn unsolicited(&mut self, status: Option<Status>) -> Labelled {
        match status {
            Some(Status::Ok | Status::Err) => {
                self.surplus += 1;
                if self.surplus > MOST_SURPLUS { Labelled::Lost(Loss::TooManyReplies) } else { Labelled::Unsolicited(status) }
            }
            None | Some(Status::Continue) => {
                self.strays += 1;
                if self.strays > MOST_STRAYS { Labelled::Lost(Loss::UnexpectedLine) } else { Labelled::Unsolicited(None) }
            }
        }
    }

    fn challenge(&mut self) -> Labelled {
        if self.doubtful.pop_front().is_none() {
            self.responses_due += 1;
        }
        Labelled::Challenge(self.auth.unwrap_or_default())
    }

    fn reply(&mut self, status: Option<Status>, end: LineEnd) -> Labelled {
        let Some(head) = self.pending.pop_front() else { return Labelled::Unsolicited(status) };
        (self.surplus, self.strays) = (0, 0);
        let shape = if status == Some(Status::Ok) { head.shape } else { Shape::SingleLine };
        let (n, keyword) = (head.n, head.keyword);
        if self.mode == Mode::ClientData(n) {
            self.mode = Mode::Lines;
        }
        match (&head.kind, keyword, status) {
            (Kind::Auth { .. }, ..) => self.auth_settled(status),
            (_, Keyword::Pass | Keyword::Apop, Some(Status::Ok)) => self.stage = Stage::Transaction,
            (_, Keyword::Quit, Some(Status::Ok)) => self.quit_answered(),
            (_, Keyword::Stls, Some(Status::Ok)) => self.mode = Mode::Handshake,
            (_, Keyword::Stls, _) => self.stls_refused(),
            (Kind::Xmit, _, Some(Status::Ok)) => return self.xmit_answered(&head),
            _ => {}
        }
        if shape == Shape::MultiLine {
            let (edit, own) = (head.wants.body, head.is_own());
            self.body = Some(Receiving { n, keyword, edit, own, added: false, body: Body::new(end == LineEnd::Lf) });
        }
        Labelled::Reply { n, keyword, status, shape }
    }

    fn auth_settled(&mut self, status: Option<Status>) {
        (self.auth, self.responses_due) = (None, 0);
        if status == Some(Status::Ok) {
            self.stage = Stage::Transaction;
            self.layer_possible = true;
        }
    }

    fn stls_refused(&mut self) {
        if !self.pending.iter().any(|pending| pending.keyword == Keyword::Stls && !pending.is_local()) {
            self.mode = Mode::Lines;
        }
    }

    fn quit_answered(&mut self) {
        self.quit = true;
        if self.stage == Stage::Transaction {
            self.stage = Stage::Update;
        }
    }

    /// Behind the first `+OK` the client sends its message, and the server replies once more. Lines that are on their way
    /// already are part of that message, so nobody knows what they were.
    fn xmit_answered(&mut self, head: &Pending) -> Labelled {
        if !self.pending.is_empty() {
            return Labelled::Lost(Loss::AmbiguousCommand);
        }
        let (n, keyword) = (head.n, head.keyword);
        self.mode = Mode::ClientData(n);
        self.pending.push_back(Pending::behind_data(head));
        Labelled::Reply { n, keyword, status: Some(Status::Ok), shape: Shape::SingleLine }
    }
}

/// More unsolicited status lines in a row than this are a loss of pairing: Cyrus sends three replies to a line of 20,000 octets.
const MOST_SURPLUS: usize = 2;
/// More unsolicited lines in a row that are no status lines than this are one.
const MOST_STRAYS: usize = 1;
