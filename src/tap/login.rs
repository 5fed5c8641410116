//! A login that is held until its server is known and has been reached.
//!
//! The filter takes a login out of the client's stream ([`Verdict::Login`](super::Verdict::Login)). From then on nothing of the
//! client's is labelled; whoever runs the tap is told that the login is due, reaches a server, and says so. The tap speaks the
//! login's lines there, and the reply to the last of them is the reply to the client's command, as in any session.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Action, Decision, Event, Filter, Observer, Ordinal, REMEMBERED, Rule, Tap, cut::whole};
use crate::pop3::{Command, Labelled, ServerExpects, Wants};

/// A line that may hold a password, its line end included; overwritten when it is dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// What a server is told at a login.
#[derive(Clone, Default)]
pub struct Script {
    /// What comes before the last line: a USER, or an AUTH that the client has begun and whose challenge it has had.
    pub first: Option<Secret>,
    /// The line whose reply decides.
    pub last: Secret,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Script")
    }
}

/// A login that is under way.
pub(super) struct Login {
    /// The command of the client's that it answers.
    n: Ordinal,
    step: Step,
    /// Whether the client began an exchange.
    is_exchange: bool,
    script: Script,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The client is to be asked for its SASL response, when all before is answered.
    Challenge,
    /// It was.
    Response,
    /// All is known that a server has to be told.
    Due,
    /// A server was reached, which is to greet and to be told what is left of the script.
    Telling,
    /// It has been told the first line.
    Asked,
    /// It has been told all.
    Told,
    /// It is over, and nobody is logged in.
    Refused,
}

impl<O: Observer, F: Filter> Tap<O, F> {
    // ── for whoever runs the tap ──

    /// Whether a server has to be reached: a login waits for it, and the client has been told all that comes before.
    #[must_use]
    pub fn is_login_due(&self) -> bool {
        let is_due = |login: &Login| login.step == Step::Due && self.tracker.is_next(login.n);
        self.login.as_deref().is_some_and(is_due) && self.upstream.is_drained()
    }

    /// The command whose login is under way.
    #[must_use]
    pub fn login(&self) -> Option<Ordinal> {
        self.login.as_ref().map(|login| login.n)
    }

    /// A server was reached, which is to greet: what is read from now on is its own.
    pub fn reached(&mut self) {
        self.upstream_cut.clear();
        self.upstream.begin_anew();
        self.client.read_on();
        self.tracker.greets_anew();
        self.go_to(Step::Telling);
    }

    /// There is no server for the login that was due; `text`, line end included, is the reply to it.
    pub fn refuse_login(&mut self, text: Arc<[u8]>, rule: &Rule) {
        let Some(n) = self.login() else { return };
        self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Answer, rule)));
        self.tracker.answer_instead(n, text);
        self.go_to(Step::Refused);
    }

    /// Whether the login is over, nobody is logged in, and the client has been told all of it.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        let is_refused = self.login.as_ref().is_some_and(|login| login.step == Step::Refused);
        is_refused && self.stash.is_none() && self.upstream.is_drained() && !self.tracker.has_local_next()
    }

    /// The server is gone; `filter` answers the client until the next login.
    pub fn unrouted(&mut self, filter: F) {
        self.login = None;
        self.stash = None;
        self.filter = filter;
        self.client.read_on();
        self.upstream_cut.clear();
        self.upstream.begin_anew();
    }

    // ── the client's side ──

    /// Takes a login of `length` octets out of the client's stream. Without a script the client is asked for its SASL response.
    pub(super) fn hold_login(&mut self, length: usize, wants: Wants, script: Option<Script>) {
        let line = whole(&self.client.unlabelled()[..length], self.client.labelled(), REMEMBERED);
        let (command, stage) = (Command::parse(line.text), self.tracker.stage());
        let n = self.tracker.command(&command, line.text, line.octets, Wants { status: true, ..wants });
        self.observer.on(&Event::Command { n, keyword: command.keyword, line, stage, forwarded: true, own: false });
        super::noted(&mut self.observer, &mut self.filter, Some(n));
        let step = if script.is_some() { Step::Due } else { Step::Challenge };
        let is_exchange = script.is_none();
        self.login = Some(Box::new(Login { n, step, is_exchange, script: script.unwrap_or_default() }));
        self.client.skip(length);
    }

    /// Takes a SASL response of `length` octets out of the client's stream; the login of which it is part is due, or refused.
    pub(super) fn hold_response(&mut self, auth: Ordinal, length: usize, script: Result<Script, (Arc<[u8]>, Rule)>) {
        let line = whole(&self.client.unlabelled()[..length], self.client.labelled(), REMEMBERED);
        let n = self.tracker.sasl_line(&Command::parse(b""), b"", 0);
        self.observer.on(&Event::SaslResponse { n, auth, line });
        self.client.skip(length);
        match script {
            Ok(script) => {
                if let Some(login) = &mut self.login {
                    (login.script, login.step) = (script, Step::Due);
                }
            }
            Err((text, rule)) => {
                self.observer.on(&Event::Decision(Decision::of(Some(n), Action::Answer, &rule)));
                self.tracker.answer_instead(auth, text);
                self.login = None;
            }
        }
    }

    /// Whether a login is under way, so that nothing of the client's is labelled.
    pub(super) fn holds_for_login(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.step != Step::Response)
    }

    /// Tells the server the next line of the login, when it has greeted and has answered the one before.
    pub(super) fn tell_login(&mut self) -> bool {
        if !self.client.may_insert() || !self.tracker.is_greeted() {
            return false;
        }
        let Some(login) = self.login.as_mut().filter(|login| login.step == Step::Telling) else { return false };
        if !self.upstream.unlabelled().is_empty() {
            self.refuse_login(Arc::from(EARLY), &Rule::BuiltIn("server-early"));
            return true;
        }
        let Some(first) = login.script.first.take() else {
            login.step = Step::Told;
            self.client.insert_secret(std::mem::take(&mut login.script.last));
            return true;
        };
        login.step = Step::Asked;
        if !login.is_exchange {
            let line = whole(&first, self.client.labelled(), REMEMBERED);
            let (command, stage) = (Command::parse(line.text), self.tracker.stage());
            let n = self.tracker.ask_before(&command);
            self.observer.on(&Event::Command { n, keyword: command.keyword, line, stage, forwarded: true, own: true });
        }
        self.client.insert_secret(first);
        true
    }

    // ── the server's side ──

    /// Asks the client for its SASL response, when all before is answered.
    pub(super) fn place_challenge(&mut self) -> bool {
        let Some(login) = self.login.as_mut().filter(|login| login.step == Step::Challenge) else { return false };
        if !self.tracker.is_next(login.n) {
            return false;
        }
        login.step = Step::Response;
        self.tracker.challenged();
        let line = whole(CHALLENGE, self.upstream.labelled(), REMEMBERED);
        self.observer.on(&Event::SaslChallenge { auth: login.n, line });
        self.upstream.insert(Arc::from(CHALLENGE));
        true
    }

    /// Whether the server has nothing to say now: it has not been told what it would answer, or the login is over.
    pub(super) fn holds_server_for_login(&self) -> bool {
        self.login.as_ref().is_some_and(|login| match login.step {
            Step::Telling => self.tracker.is_greeted(),
            Step::Refused => true,
            _ => false,
        })
    }

    /// Whether the server has gone away in the middle of a login.
    pub(super) fn logs_in_in_vain(&self) -> bool {
        let is_under_way = |login: &Login| matches!(login.step, Step::Telling | Step::Asked | Step::Told);
        let has_line = memchr::memchr(b'\n', self.upstream.unlabelled()).is_some();
        self.login.as_deref().is_some_and(is_under_way) && self.upstream.is_ended() && !has_line && self.upstream.may_insert()
    }

    /// The client is told that the server has gone away.
    pub(super) fn give_up_login(&mut self) -> bool {
        self.upstream.skip(self.upstream.unlabelled().len());
        self.refuse_login(Arc::from(GONE), &Rule::BuiltIn("server-gone"));
        true
    }

    /// The status line that answers the login's own first line, `count` octets; `None` where it is a challenge.
    ///
    /// Whatever stands behind it answers something that was not said yet.
    pub(super) fn first_answered(&mut self, is_ok: bool, count: usize) {
        let text: Arc<[u8]> = Arc::from(&self.upstream.unlabelled()[..count]);
        let is_alone = self.upstream.unlabelled().len() == count;
        self.upstream.skip(count);
        match (is_ok, is_alone) {
            (true, true) => self.go_to(Step::Telling),
            (true, false) => self.refuse_login(Arc::from(EARLY), &Rule::BuiltIn("server-early")),
            (false, _) => self.refuse_login(text, &Rule::BuiltIn("login-refused")),
        }
    }

    /// What else a status line means for a login; whether it was none for the client.
    pub(super) fn of_login(&mut self, labelled: Labelled, count: usize) -> bool {
        let Some(login) = &self.login else { return false };
        match (labelled, login.step) {
            (Labelled::Challenge(_), Step::Asked) => self.first_answered(true, count),
            (Labelled::Challenge(_), _) => {
                self.upstream.skip(count);
                self.refuse_login(Arc::from(EARLY), &Rule::BuiltIn("server-early"));
            }
            _ => return false,
        }
        self.tracker.responded();
        true
    }

    /// Command `n` was answered.
    pub(super) fn login_answered(&mut self, n: Ordinal) {
        if self.login() == Some(n) {
            if self.tracker.stage() == crate::pop3::Stage::Authorization {
                self.go_to(Step::Refused);
            } else {
                self.login = None;
            }
        }
    }

    /// Whether neither side's end may be passed on yet.
    pub(super) fn login_is_unsettled(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.step != Step::Response)
            && self.tracker.server_expects() != ServerExpects::Held
    }

    fn go_to(&mut self, step: Step) {
        if let Some(login) = &mut self.login {
            login.step = step;
        }
    }
}

const CHALLENGE: &[u8] = b"+ \r\n";
const GONE: &[u8] = b"-ERR [SYS/TEMP] the server went away during the login\r\n";
const EARLY: &[u8] = b"-ERR [SYS/TEMP] the server's answers could not be understood\r\n";
