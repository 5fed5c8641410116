//! Who the client says it is, and who it is since the server agreed.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use crate::{
    pop3::{Command, Keyword, Ordinal, Stage, Status, identity},
    tap::REMEMBERED,
};

/// Follows the logins of one session. Names are the client's own words: a server may read them otherwise.
#[derive(Debug, Default)]
pub(super) struct Login {
    /// The last that was named.
    named: Option<Arc<str>>,
    /// Whom a PASS is for: servers keep what USER named across an AUTH or APOP that they refuse.
    pass_for: Option<Arc<str>>,
    /// USERs that await their reply, in order, and whom a PASS was for before each: where a server refuses one (Cyrus: `Must give
    /// PASS command`), it keeps the name before.
    users: VecDeque<(Ordinal, Option<Arc<str>>)>,
    /// Whether the server let somebody in, and whom.
    is_in: bool,
    user: Option<Arc<str>>,
    /// Logins that await their reply, in order, and who each is for: a name behind a login is not its own.
    attempts: VecDeque<(Ordinal, Option<Arc<str>>)>,
    /// Those that are not settled, in order.
    exchanges: VecDeque<Exchange>,
}

/// An AUTH that is not settled.
#[derive(Debug)]
struct Exchange {
    auth: Ordinal,
    mechanism: Option<&'static str>,
    /// Messages of the client's so far.
    step: usize,
    cancelled: bool,
}

impl Login {
    /// Whom a command is about: the one that it names, or else the one that is logged in or was named last.
    pub(super) fn subject<'a>(&'a self, command: &Command<'a>) -> Option<Cow<'a, str>> {
        match command.keyword {
            Keyword::User | Keyword::Rpop | Keyword::Apop => named_in(command).map(Cow::Borrowed),
            Keyword::Auth if command.has_argument() => {
                initial(command).and_then(|said| said.acts_as.or(said.user)).map(Cow::Owned)
            }
            Keyword::Pass if !self.is_in => self.pass_for.as_deref().map(Cow::Borrowed),
            _ => self.current().map(Cow::Borrowed),
        }
    }

    /// The one that is logged in, or, before a login, was named last.
    pub(super) fn current(&self) -> Option<&str> {
        if self.is_in { self.user.as_deref() } else { self.named.as_deref() }
    }

    /// Whether an AUTH may still tell in its exchange who it is for.
    pub(super) fn will_tell(command: &Command<'_>) -> bool {
        command.keyword == Keyword::Auth
            && !has_response(command)
            && command.arguments().next().and_then(identity::mechanism).is_some_and(names_itself)
    }

    /// Whether the reply to an earlier USER is still to tell whom a PASS is for.
    pub(super) fn awaits_name(&self, command: &Command<'_>) -> bool {
        command.keyword == Keyword::Pass && self.users.iter().any(|(_, before)| before.is_some() && *before != self.pass_for)
    }

    /// Whether a login awaits its reply.
    pub(super) fn is_trying(&self) -> bool {
        !self.attempts.is_empty()
    }

    /// The exchange of AUTH `auth` is cancelled before anything was tried.
    pub(super) fn cancel(&mut self, auth: Ordinal) {
        if let Some(exchange) = self.exchanges.iter_mut().find(|exchange| exchange.auth == auth) {
            exchange.cancelled = true;
        }
    }

    /// Command `n` goes to the server.
    pub(super) fn forwarded(&mut self, n: Ordinal, command: &Command<'_>) {
        match command.keyword {
            Keyword::User | Keyword::Rpop => {
                self.named = named_in(command).map(Arc::from);
                let before = std::mem::replace(&mut self.pass_for, self.named.clone());
                self.users.push_back((n, before));
            }
            Keyword::Apop => self.named = named_in(command).map(Arc::from),
            Keyword::Auth if command.has_argument() => {
                let mechanism = command.arguments().next().and_then(identity::mechanism);
                let step = usize::from(has_response(command));
                self.named = self.subject(command).map(Arc::from);
                self.exchanges.push_back(Exchange { auth: n, mechanism, step, cancelled: false });
            }
            _ => {}
        }
        if begins(command) {
            let who = if command.keyword == Keyword::Pass { &self.pass_for } else { &self.named };
            self.attempts.push_back((n, who.clone()));
        }
    }

    /// A SASL response to a challenge of AUTH `auth`, or the beginning of one.
    pub(super) fn response(&mut self, auth: Ordinal, line: &[u8], whole: bool) -> Response {
        let Some(exchange) = self.exchanges.iter_mut().find(|exchange| exchange.auth == auth) else { return Response::Astray };
        let step = exchange.step;
        exchange.step += 1;
        exchange.cancelled = line == b"*" && step < credentials_at(exchange.mechanism);
        let said = identity::read(exchange.mechanism.unwrap_or_default(), step, line, whole);
        let Some(user) = said.acts_as.or(said.user) else {
            return if whole && line == b"*" { Response::Cancels } else { Response::Nameless };
        };
        self.named = Some(user.into());
        if let Some((_, who)) = self.attempts.iter_mut().find(|(n, _)| *n == auth) {
            who.clone_from(&self.named);
        }
        Response::Named
    }

    /// What a reply says of the login.
    pub(super) fn replied(&mut self, n: Ordinal, keyword: Keyword, status: Option<Status>, stage: Stage) -> Told {
        let exchange = settled(&mut self.exchanges, n, |exchange| exchange.auth);
        let who = settled(&mut self.attempts, n, |(n, _)| *n).and_then(|(_, who)| who);
        if let Some((_, Some(before))) = settled(&mut self.users, n, |(n, _)| *n)
            && status != Some(Status::Ok)
        {
            self.keep(before);
        }
        match (keyword, status) {
            (Keyword::Pass | Keyword::Apop | Keyword::Auth, Some(Status::Ok)) if stage == Stage::Transaction => {
                if self.is_in {
                    return Told::Nothing;
                }
                (self.is_in, self.user) = (true, who);
                Told::LoggedIn
            }
            (Keyword::Auth, Some(Status::Err)) if exchange.as_ref().is_none_or(|exchange| exchange.cancelled) => Told::Nothing,
            (Keyword::Pass | Keyword::Apop | Keyword::Auth, Some(Status::Err)) if stage == Stage::Authorization => {
                Told::Refused(who)
            }
            _ => Told::Nothing,
        }
    }

    /// A USER was refused, and the name before it stays.
    fn keep(&mut self, before: Arc<str>) {
        if let Some((_, next)) = self.users.front_mut() {
            *next = Some(before);
        } else {
            (self.named, self.pass_for) = (Some(before.clone()), Some(before));
        }
    }
}

/// Takes out what belongs to command `n`; what is before it is settled.
fn settled<T>(queue: &mut VecDeque<T>, n: Ordinal, of: impl Fn(&T) -> Ordinal) -> Option<T> {
    while queue.front().is_some_and(|first| of(first) < n) {
        queue.pop_front();
    }
    if of(queue.front()?) == n { queue.pop_front() } else { None }
}

/// Whether a command is a login, or begins one.
pub(super) fn begins(command: &Command<'_>) -> bool {
    matches!(command.keyword, Keyword::Pass | Keyword::Apop) || command.keyword == Keyword::Auth && command.has_argument()
}

/// What a SASL response says of who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// It belongs to no exchange.
    Astray,
    /// It cancels the exchange (RFC 5034 §4).
    Cancels,
    /// Nothing, or nothing that can be read.
    Nameless,
    /// Who it is.
    Named,
}

/// Whether an AUTH brings its first response along. `=` is an empty one (RFC 5034 §4), behind which servers still ask.
fn has_response(command: &Command<'_>) -> bool {
    command.arguments().nth(1).is_some_and(|response| response != b"=")
}

/// What a reply means for the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    LoggedIn,
    /// A login of this user, where the name is known.
    Refused(Option<Arc<str>>),
}

/// The name in a USER or APOP.
fn named_in<'a>(command: &Command<'a>) -> Option<&'a str> {
    let name = match command.keyword {
        Keyword::Apop => command.arguments().next().unwrap_or_default(),
        _ => command.rest.trim_ascii(),
    };
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(char::is_control))
}

/// What the initial response of an AUTH says, where there is one.
fn initial(command: &Command<'_>) -> Option<identity::Said> {
    let mut arguments = command.arguments();
    let mechanism = arguments.next().and_then(identity::mechanism)?;
    // Of a long line only the beginning may be here.
    let whole = command.line.len() < REMEMBERED;
    Some(identity::read(mechanism, 0, arguments.next()?, whole))
}

/// How many messages of the client's hold all that there is to guess: a `*` behind them takes nothing back.
fn credentials_at(mechanism: Option<&str>) -> usize {
    match mechanism {
        Some("PLAIN" | "XOAUTH" | "XOAUTH2" | "OAUTHBEARER" | "CRAM-MD5" | "DIGEST-MD5" | "EXTERNAL") => 1,
        _ => 2,
    }
}

/// Mechanisms whose exchange tells the name in a form that we read.
fn names_itself(mechanism: &str) -> bool {
    matches!(mechanism, "PLAIN" | "LOGIN" | "XOAUTH2" | "OAUTHBEARER" | "CRAM-MD5") || mechanism.starts_with("SCRAM-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(login: &mut Login, lines: &[&str]) -> Option<String> {
        let mut auth = 0;
        for (n, line) in (1..).zip(lines) {
            if let Some(response) = line.strip_prefix("> ") {
                login.response(auth, response.as_bytes(), true);
            } else {
                auth = n;
                login.forwarded(n, &Command::parse(line.as_bytes()));
            }
        }
        login.current().map(str::to_owned)
    }

    #[test]
    fn who_it_is() {
        for (lines, expected) in [
            (&["USER bob"][..], Some("bob")),
            (&["user   bob  "], Some("bob")),
            (&["USER bob", "USER eve"], Some("eve")),
            (&["USER bob", "USER"], None),
            (&["APOP bob c4c9334bac560ecc979e58001b3e22fb"], Some("bob")),
            (&["AUTH PLAIN AGJvYgBwdw=="], Some("bob")),
            (&["AUTH PLAIN YXJjaGl2ZQBib2IAcHc="], Some("archive")),
            (&["AUTH PLAIN"], None),
            (&["AUTH PLAIN", "> AGJvYgBwdw=="], Some("bob")),
            (&["AUTH LOGIN", "> Ym9i", "> cHc="], Some("bob")),
            (&["AUTH LOGIN =", "> Ym9i", "> cHc="], Some("bob")),
            (&["USER bob", "AUTH GSSAPI"], None),
            (&["AUTH CRAM-MD5", "> Ym9iIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"], Some("bob")),
        ] {
            assert_eq!(told(&mut Login::default(), lines).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_a_reply_says() {
        let (ok, err) = (Some(Status::Ok), Some(Status::Err));
        let mut login = Login::default();
        told(&mut login, &["USER bob", "PASS x"]);
        assert_eq!(login.replied(2, Keyword::Pass, err, Stage::Authorization), Told::Refused(Some("bob".into())));
        told(&mut login, &["AUTH PLAIN", "> *"]);
        assert_eq!(login.replied(1, Keyword::Auth, err, Stage::Authorization), Told::Nothing, "it was cancelled");
        told(&mut login, &["AUTH PLAIN AGJvYgBwdw==", "> *"]);
        let refused = login.replied(1, Keyword::Auth, err, Stage::Authorization);
        assert_eq!(refused, Told::Refused(Some("bob".into())), "too late to cancel");
        told(&mut login, &["AUTH PLAIN AGV2ZQBwdw=="]);
        assert_eq!(login.replied(1, Keyword::Auth, ok, Stage::Transaction), Told::LoggedIn);
        told(&mut login, &["USER bob"]);
        assert_eq!(login.current(), Some("eve"), "nobody becomes somebody else behind the login");
    }

    #[test]
    fn a_pass_is_for_whom_the_servers_last_user_named() {
        let (ok, err) = (Some(Status::Ok), Some(Status::Err));
        let lines = ["USER bob", "USER eve", "USER tim"];
        for (answers, expected) in [
            ([ok, ok, ok], "tim"),
            ([ok, ok, err], "eve"),
            ([ok, err, ok], "tim"),
            ([ok, err, err], "bob"),
            ([err, err, err], "bob"),
        ] {
            let mut login = Login::default();
            told(&mut login, &lines);
            let pass = Command::parse(b"PASS x");
            for (n, answer) in (1..).zip(answers) {
                assert!(login.awaits_name(&pass), "{answers:?}: the reply to {n} may change it");
                login.replied(n, Keyword::User, answer, Stage::Authorization);
            }
            assert!(!login.awaits_name(&pass));
            assert_eq!(login.subject(&pass).as_deref(), Some(expected), "{answers:?}");
        }
        for between in
            [&["APOP eve x"][..], &["AUTH PLAIN AGV2ZQBwdw=="], &["AUTH PLAIN", "> AGV2ZQBwdw=="], &["AUTH LOGIN", "> *"]]
        {
            let mut login = Login::default();
            told(&mut login, &[&["USER bob"], between].concat());
            assert_eq!(login.subject(&Command::parse(b"PASS x")).as_deref(), Some("bob"), "{between:?}");
            login.forwarded(9, &Command::parse(b"PASS x"));
            assert_eq!(login.replied(9, Keyword::Pass, ok, Stage::Transaction), Told::LoggedIn);
            assert_eq!(login.current(), Some("bob"), "{between:?}");
        }
    }

    #[test]
    fn a_name_behind_a_login_is_not_its_own() {
        let (ok, err) = (Some(Status::Ok), Some(Status::Err));
        let mut login = Login::default();
        told(&mut login, &["USER bob", "PASS x", "USER eve", "PASS y", "USER tim"]);
        assert_eq!(login.replied(2, Keyword::Pass, err, Stage::Authorization), Told::Refused(Some("bob".into())));
        assert_eq!(login.replied(4, Keyword::Pass, ok, Stage::Transaction), Told::LoggedIn);
        assert_eq!(login.current(), Some("eve"));
        let mut login = Login::default();
        told(&mut login, &["AUTH PLAIN AGJvYgBwdw==", "AUTH PLAIN AGV2ZQBwdw=="]);
        assert_eq!(login.replied(1, Keyword::Auth, err, Stage::Authorization), Told::Refused(Some("bob".into())));
        assert_eq!(login.replied(2, Keyword::Auth, err, Stage::Authorization), Told::Refused(Some("eve".into())));
        let mut login = Login::default();
        told(&mut login, &["AUTH GSSAPI"]);
        assert_eq!(login.replied(1, Keyword::Auth, ok, Stage::Transaction), Told::LoggedIn);
        told(&mut login, &["USER bob"]);
        assert_eq!(login.current(), None, "who is not known stays unknown");
    }
}
