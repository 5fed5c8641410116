//! What of a line may be written. Decided by the kind of the event, never by how a line looks.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use aws_lc_rs::hmac;

use super::{
    schema::{Sasl, Text},
    secrets::Secrets,
};
use crate::{
    escape::{escape, escaped, hex},
    pop3::{Command, Keyword, LineEnd, Stage, Status, identity},
    tap::{Line, Ordinal},
};

/// Exchanges and user names that are remembered at most; older ones go first.
const REMEMBERED: usize = 64;

/// Redacts the lines of one session.
pub(super) struct Redactor {
    /// With a key, user names are written as keyed digests.
    user_key: Option<Arc<hmac::Key>>,
    /// Nothing is withheld.
    reveal: bool,
    secrets: Secrets,
    exchanges: VecDeque<Exchange>,
    /// Names to look for in the server's text; only with a key.
    users: VecDeque<Vec<u8>>,
    stage: Stage,
}

/// One AUTH.
struct Exchange {
    auth: Ordinal,
    mechanism: Option<&'static str>,
    /// Messages of the client's so far.
    step: usize,
}

/// What may be written of a command line, and what it says of a login.
pub(super) struct Shown<'a> {
    pub(super) line: Written<'a>,
    pub(super) mechanism: Option<&'static str>,
    pub(super) user: Option<String>,
}

/// A line as it is written: [`Text`], borrowed where nothing had to be changed.
pub(super) struct Written<'a> {
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) redacted: Option<&'static str>,
    pub(super) octets: u64,
    pub(super) offset: u64,
    pub(super) line_end: Option<&'static str>,
    pub(super) cut: bool,
}

impl Written<'_> {
    pub(super) fn to_text(&self) -> Text {
        Text {
            text: self.text.as_deref().map(str::to_owned),
            redacted: self.redacted.map(str::to_owned),
            octets: self.octets,
            offset: self.offset,
            line_end: self.line_end.map(str::to_owned),
            cut: self.cut,
        }
    }
}

/// Whether nothing behind a keyword is secret, or names anybody.
fn is_open(keyword: Keyword) -> bool {
    use Keyword::{Apop, Auth, Pass, Rpop, Unknown, User, Xclient, Xoip};
    !matches!(keyword, Apop | Auth | Pass | Rpop | Unknown | User | Xclient | Xoip)
}

impl Redactor {
    pub(super) fn new(user_key: Option<Arc<hmac::Key>>, reveal: bool) -> Self {
        let user_key = user_key.filter(|_| !reveal);
        let (exchanges, users) = (VecDeque::new(), VecDeque::new());
        Self { user_key, reveal, secrets: Secrets::default(), exchanges, users, stage: Stage::Authorization }
    }

    /// A command line of the client's.
    pub(super) fn command<'a>(&mut self, n: Ordinal, keyword: Keyword, line: &Line<'a>, stage: Stage) -> Shown<'a> {
        self.stage = stage;
        let (readable, rest) = split_at_oddity(line.text);
        let command = Command::parse(readable);
        let (mut shown, mechanism, user) = match keyword {
            Keyword::User | Keyword::Rpop => self.user(&command, line),
            Keyword::Apop => self.apop(n, &command, line),
            Keyword::Auth => self.auth(n, &command, line),
            Keyword::Pass | Keyword::Xclient | Keyword::Xoip => (self.argument_is_secret(n, &command, line), None, None),
            Keyword::Unknown => (self.unknown_line(n, command.word, line), None, None),
            _ => (Kept::all(readable), None, None),
        };
        // Of a long line only the beginning is known. (SASL messages are long as a rule, and secret from their beginning.)
        if !line.is_whole() && keyword != Keyword::Auth {
            self.secrets.miss(n);
        }
        if !rest.is_empty() {
            self.secrets.hold(n, rest);
            shown.redacted = shown.redacted.or(Some("unknown"));
        }
        Shown { line: self.written(line, shown), mechanism, user }
    }

    /// A line of the client's that was never ended. Servers may take it for a command all the same, and echo it.
    pub(super) fn unfinished(&mut self, line: &Line<'_>) {
        self.secrets.hold(Ordinal::MAX, line.text);
        if !line.is_whole() {
            self.secrets.miss(Ordinal::MAX);
        }
    }

    /// A line of the client's that is or may be a SASL response.
    pub(super) fn response(&mut self, n: Ordinal, auth: Ordinal, line: &Line<'_>) -> Sasl {
        self.secrets.hold(n, line.text);
        let cancel = line.text == b"*";
        let user = if cancel { None } else { self.message(n, auth, line.text, line.is_whole()) };
        Sasl {
            from: super::schema::Hop::Client,
            auth,
            n: Some(n),
            octets: line.octets,
            offset: line.offset,
            user,
            cancel,
            revealed: self.reveal.then(|| escape(line.text)),
        }
    }

    /// A challenge of the server's.
    pub(super) fn challenge(&self, auth: Ordinal, line: &Line<'_>) -> Sasl {
        Sasl {
            from: super::schema::Hop::Upstream,
            auth,
            n: None,
            octets: line.octets,
            offset: line.offset,
            user: None,
            cancel: false,
            revealed: self.reveal.then(|| escape(line.text)),
        }
    }

    /// The mechanism of an AUTH that is under way.
    pub(super) fn mechanism(&self, auth: Ordinal) -> Option<&'static str> {
        self.exchanges.iter().rev().find(|exchange| exchange.auth == auth)?.mechanism
    }

    /// A line of the server's, or a reply of poptap's own.
    pub(super) fn server_line<'a>(&self, status: Option<Status>, line: &Line<'a>) -> Written<'a> {
        let shown = if self.secrets.are_echoed_in(line.text) {
            Kept::nothing("echo")
        } else if status.is_none() {
            self.of_unknown(line.text.split(u8::is_ascii_whitespace).next().unwrap_or_default())
        } else if self.names_a_user(line.text) {
            Kept::nothing("user")
        } else {
            Kept::all(line.text)
        };
        self.written(line, shown)
    }

    /// Whether a line of a listing holds what must not be written.
    pub(super) fn hides(&self, line: &[u8]) -> bool {
        !self.reveal && (self.secrets.are_echoed_in(line) || self.names_a_user(line))
    }

    /// A line of poptap's own in the place of another: a status line, or a command behind the login that holds no secret.
    /// `None` for what may not be written.
    pub(super) fn replaced(&self, line: &[u8]) -> Option<String> {
        let harmless = Status::of(line).is_some() || self.stage == Stage::Transaction && is_open(Command::parse(line).keyword);
        let shown = &line[..line.len().min(crate::tap::REMEMBERED)];
        (self.reveal || harmless && !self.hides(line)).then(|| escape(shown))
    }

    /// Command `n` was answered and its reply recorded.
    pub(super) fn answered(&mut self, n: Ordinal, stage: Stage) {
        self.stage = stage;
        self.secrets.answered(n);
        self.exchanges.retain(|exchange| exchange.auth > n);
    }

    fn user<'a>(&mut self, command: &Command<'_>, line: &Line<'a>) -> Login<'a> {
        let name = command.rest.trim_ascii();
        if name.is_empty() {
            return (Kept::all(readable(line)), None, None);
        }
        let user = self.name(name);
        let kept = if self.user_key.is_some() { Kept::with_user(command, &user) } else { Kept::all(readable(line)) };
        (kept, Some("USER"), Some(user))
    }

    /// RFC 1939 §7: `APOP name digest`. With one argument only, that may be the digest.
    fn apop<'a>(&mut self, n: Ordinal, command: &Command<'_>, line: &Line<'a>) -> Login<'a> {
        let mechanism = Some("APOP");
        let mut arguments = command.arguments();
        let (Some(name), Some(_)) = (arguments.next(), arguments.next()) else {
            return (self.argument_is_secret(n, command, line), mechanism, None);
        };
        let behind_name = command.rest.trim_ascii_start().get(name.len()..).unwrap_or_default();
        self.secrets.hold(n, behind_name);
        let user = self.name(name);
        let kept = Kept { redacted: Some("secret"), ..Kept::with_user(command, &user) };
        (kept, mechanism, Some(user))
    }

    /// RFC 5034 §4: `AUTH mechanism [initial response]`.
    fn auth<'a>(&mut self, n: Ordinal, command: &Command<'_>, line: &Line<'a>) -> Login<'a> {
        let mut arguments = command.arguments();
        let Some(word) = arguments.next() else { return (Kept::all(readable(line)), None, None) };
        let mechanism = identity::mechanism(word);
        if self.exchanges.len() == REMEMBERED {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(Exchange { auth: n, mechanism, step: 0 });
        let Some(name) = mechanism else {
            self.secrets.hold(n, command.rest);
            return (Kept::beginning(command, &letters(word), "unknown"), None, None);
        };
        let response = command.rest.trim_ascii_start().get(word.len()..).unwrap_or_default().trim_ascii();
        if response.is_empty() {
            return (Kept::all(readable(line)), Some(name), None);
        }
        self.secrets.hold(n, response);
        let user = self.message(n, n, response, line.is_whole());
        (Kept::beginning(command, &escape(word), "secret"), Some(name), user)
    }

    /// Reads one SASL message: returns its user, holds its secret.
    fn message(&mut self, n: Ordinal, auth: Ordinal, line: &[u8], whole: bool) -> Option<String> {
        let exchange = self.exchanges.iter_mut().rev().find(|exchange| exchange.auth == auth)?;
        let step = exchange.step;
        exchange.step += 1;
        let said = identity::read(exchange.mechanism.unwrap_or_default(), step, line, whole);
        if let Some(secret) = said.secret {
            self.secrets.hold(n, &secret);
        }
        said.user.map(|user| self.name(user.as_bytes()))
    }

    fn argument_is_secret<'a>(&mut self, n: Ordinal, command: &Command<'_>, line: &Line<'a>) -> Kept<'a> {
        if !command.has_argument() {
            return Kept::all(readable(line));
        }
        self.secrets.hold(n, command.rest);
        Kept { text: Some(escape(command.word).into()), redacted: Some("secret") }
    }

    fn unknown_line(&mut self, n: Ordinal, word: &[u8], line: &Line<'_>) -> Kept<'static> {
        self.secrets.hold(n, line.text);
        self.of_unknown(word)
    }

    /// Anything may stand in a line that nobody understands: a password that was typed too early, or its echo.
    fn of_unknown(&self, word: &[u8]) -> Kept<'static> {
        let letters = letters(word);
        let shown = self.stage != Stage::Authorization && !letters.is_empty();
        Kept { text: shown.then_some(letters.into()), redacted: Some("unknown") }
    }

    /// A user's name as it is written.
    fn name(&mut self, name: &[u8]) -> String {
        let Some(key) = &self.user_key else { return escape(name) };
        let tag = hmac::sign(key, name);
        self.users.push_back(name.to_ascii_lowercase());
        if self.users.len() > REMEMBERED {
            self.users.pop_front();
        }
        format!("user:{}", hex(&tag.as_ref()[..8]))
    }

    /// Whether a text holds a user's name that must not be written, with or without its domain.
    fn names_a_user(&self, text: &[u8]) -> bool {
        if self.users.is_empty() {
            return false;
        }
        let text = text.to_ascii_lowercase();
        self.users.iter().any(|user| {
            let local = user.split(|&octet| octet == b'@').next().unwrap_or_default();
            let name = if local.len() >= 3 { local } else { user };
            memchr::memmem::find(&text, name).is_some()
        })
    }

    fn written<'a>(&self, line: &Line<'a>, kept: Kept<'a>) -> Written<'a> {
        let Kept { text, redacted } = if self.reveal { Kept::all(line.text) } else { kept };
        let line_end = match line.end {
            LineEnd::CrLf => None,
            LineEnd::Lf => Some("lf"),
            LineEnd::None => Some("none"),
        };
        let cut = text.is_some() && !line.is_whole();
        Written { text, redacted, octets: line.octets, offset: line.offset, line_end, cut }
    }
}

/// What is kept of a line, and what it says of a login: the mechanism, and the user.
type Login<'a> = (Kept<'a>, Option<&'static str>, Option<String>);

/// What is kept of a line, escaped.
struct Kept<'a> {
    text: Option<Cow<'a, str>>,
    redacted: Option<&'static str>,
}

impl<'a> Kept<'a> {
    fn all(text: &'a [u8]) -> Self {
        Self { text: Some(escaped(text)), redacted: None }
    }
}

impl Kept<'static> {
    fn nothing(why: &'static str) -> Self {
        Self { text: None, redacted: Some(why) }
    }

    fn beginning(command: &Command<'_>, argument: &str, why: &'static str) -> Self {
        Self { text: Some(format!("{} {argument}", escape(command.word)).into()), redacted: Some(why) }
    }

    fn with_user(command: &Command<'_>, user: &str) -> Self {
        Self::beginning(command, user, "user")
    }
}

/// A command line up to its first NUL or bare CR, and what is behind it. Servers differ on what that is: a client that ends
/// its lines with CR alone has its PASS there, in the middle of the line that began with USER.
fn split_at_oddity(text: &[u8]) -> (&[u8], &[u8]) {
    let start = text.iter().position(|octet| !octet.is_ascii_whitespace() && *octet != 0).unwrap_or(text.len());
    let at = memchr::memchr2(0, b'\r', &text[start..]).map_or(text.len(), |at| start + at);
    text.split_at(at)
}

fn readable<'a>(line: &Line<'a>) -> &'a [u8] {
    split_at_oddity(line.text).0
}

/// At most four letters of a word.
fn letters(word: &[u8]) -> String {
    word.iter().take(4).take_while(|octet| octet.is_ascii_alphabetic()).map(|&octet| char::from(octet)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> Line<'_> {
        Line { text, octets: text.len() as u64 + 2, offset: 0, end: LineEnd::CrLf }
    }

    fn plain() -> Redactor {
        Redactor::new(None, false)
    }

    fn hashed() -> Redactor {
        Redactor::new(Some(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))), false)
    }

    fn shown<'a>(redactor: &mut Redactor, text: &'a [u8], stage: Stage) -> Shown<'a> {
        redactor.command(1, Command::parse(text).keyword, &line(text), stage)
    }

    #[test]
    fn what_is_kept_of_a_command() {
        for (text, stage, kept, redacted, user) in [
            (&b"PASS hunter2"[..], Stage::Authorization, Some("PASS"), Some("secret"), None),
            (b"  pass\thunter2 ", Stage::Authorization, Some("pass"), Some("secret"), None),
            (b"PASS", Stage::Authorization, Some("PASS"), None, None),
            (b"USER bob", Stage::Authorization, Some("USER bob"), None, Some("bob")),
            (b"USER", Stage::Authorization, Some("USER"), None, None),
            (b"RPOP bob", Stage::Authorization, Some("RPOP bob"), None, Some("bob")),
            (b"APOP bob c4c9334bac560ecc979e58001b3e22fb", Stage::Authorization, Some("APOP bob"), Some("secret"), Some("bob")),
            (b"APOP c4c9334bac560ecc979e58001b3e22fb", Stage::Authorization, Some("APOP"), Some("secret"), None),
            (b"AUTH", Stage::Authorization, Some("AUTH"), None, None),
            (b"auth plain", Stage::Authorization, Some("auth plain"), None, None),
            (b"AUTH PLAIN AGJvYgBodW50ZXIy", Stage::Authorization, Some("AUTH PLAIN"), Some("secret"), Some("bob")),
            (b"AUTH hunter2", Stage::Authorization, Some("AUTH hunt"), Some("unknown"), None),
            (b"hunter2", Stage::Authorization, None, Some("unknown"), None),
            (b"hunter2", Stage::Transaction, Some("hunt"), Some("unknown"), None),
            (b"h0nter2", Stage::Transaction, Some("h"), Some("unknown"), None),
            (b"1234567", Stage::Transaction, None, Some("unknown"), None),
            (b"XCLIENT FORWARD=aGk=", Stage::Authorization, Some("XCLIENT"), Some("secret"), None),
            (b"XOIP 1.2.3.4", Stage::Authorization, Some("XOIP"), Some("secret"), None),
            (b"RETR 1\x1b", Stage::Transaction, Some(r"RETR 1\x1b"), None, None),
            (b"USER bob\rPASS hunter2\r", Stage::Authorization, Some("USER bob"), Some("unknown"), Some("bob")),
            (b"NOOP\0hunter2", Stage::Transaction, Some("NOOP"), Some("unknown"), None),
            (b"PASS\rhunter2", Stage::Authorization, Some("PASS"), Some("unknown"), None),
            (b"AUTH\rhunter2", Stage::Authorization, Some("AUTH"), Some("unknown"), None),
            (b"\rhunter2", Stage::Transaction, None, Some("unknown"), None),
        ] {
            let shown = shown(&mut plain(), text, stage);
            let found = (shown.line.text.as_deref(), shown.line.redacted, shown.user.as_deref());
            assert_eq!(found, (kept, redacted, user), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_echo_is_withheld_until_the_next_answer() {
        let mut redactor = plain();
        shown(&mut redactor, b"PASS hunter2", Stage::Authorization);
        let echo = |redactor: &Redactor| redactor.server_line(Some(Status::Err), &line(b"-ERR bad password HUNTER2")).redacted;
        assert_eq!(echo(&redactor), Some("echo"));
        redactor.answered(1, Stage::Authorization);
        assert_eq!(echo(&redactor), Some("echo"));
        redactor.answered(2, Stage::Authorization);
        assert_eq!(echo(&redactor), None);
    }

    #[test]
    fn a_line_without_a_status_is_not_shown() {
        let mut redactor = plain();
        let text = redactor.server_line(None, &line(b"NOOP aaaa-ERR no"));
        assert_eq!((text.text, text.redacted), (None, Some("unknown")));
        redactor.answered(1, Stage::Transaction);
        assert_eq!(redactor.server_line(None, &line(b"Goodbye all")).text.as_deref(), Some("Good"));
    }

    #[test]
    fn hashed_users() {
        let mut redactor = hashed();
        let first = shown(&mut redactor, b"USER bob@example.org", Stage::Authorization);
        let user = first.user.unwrap();
        assert!(user.starts_with("user:") && user.len() == 21, "{user}");
        assert_eq!(first.line.text.as_deref(), Some(&*format!("USER {user}")));
        assert_eq!(shown(&mut redactor, b"APOP bob@example.org 0123", Stage::Authorization).user, Some(user));
        let echo = redactor.server_line(Some(Status::Ok), &line(b"+OK Bob's maildrop"));
        assert_eq!((echo.text, echo.redacted), (None, Some("user")));
        assert!(redactor.hides(b"X-USER bob"));
    }

    #[test]
    fn an_exchange_in_steps() {
        let mut redactor = plain();
        shown(&mut redactor, b"AUTH LOGIN", Stage::Authorization);
        assert_eq!(redactor.response(2, 1, &line(b"Ym9i")).user.as_deref(), Some("bob"));
        assert_eq!(redactor.response(3, 1, &line(b"aHVudGVyMg==")).user, None);
        assert!(redactor.hides(b"hunter2") && redactor.hides(b"aHVudGVyMg=="));
        assert!(redactor.response(4, 1, &line(b"*")).cancel);
        assert_eq!(redactor.mechanism(1), Some("LOGIN"));
    }

    #[test]
    fn revealed() {
        let mut redactor = Redactor::new(None, true);
        assert_eq!(shown(&mut redactor, b"PASS hunter2", Stage::Authorization).line.text.as_deref(), Some("PASS hunter2"));
        assert_eq!(redactor.response(2, 1, &line(b"Ym9i")).revealed.as_deref(), Some("Ym9i"));
    }
}
