//! Rules tried out: a session in memory, with a server that answers whatever reaches it.
//!
//! The rules are asked by the same filter, in the same tap, as in a session that is carried: there is no second engine.

mod server;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Policy, ruling::message_number};
use crate::{
    pop3::{Peer, Stage},
    tap::{Action, Decision, Event, Observer, Pool, Tap},
};
use server::Server;

pub use server::Script;

/// A session that is tried.
pub struct Trial {
    tap: Tap<Notes, Policy>,
    server: Server,
    greeting: Outcome,
}

/// What becomes of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Each rule that did something, or would have, in order.
    pub decisions: Vec<Decided>,
    /// What the client gets, line ends included; empty where the server is silent.
    pub client: Vec<u8>,
    /// What the server gets, line ends included; poptap's own commands are not among it.
    pub server: Vec<u8>,
    /// Whether the session is over.
    pub closed: bool,
}

/// What a rule did, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its name.
    pub rule: String,
    /// What was done.
    pub action: Action,
    /// False for a dry run.
    pub enforced: bool,
    /// The word of a rule that takes note.
    pub tag: Option<String>,
}

impl Outcome {
    /// What was decided of the line itself: `None` where it goes on as it came.
    #[must_use]
    pub fn decision(&self) -> Option<&Decided> {
        let is_aside = |action| matches!(action, Action::Tag | Action::EditLine | Action::RemoveLine | Action::AddLine);
        self.decisions.iter().find(|decided| decided.enforced && !is_aside(decided.action))
    }

    /// Whether anything happens otherwise than without rules.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.decisions.iter().any(|decided| decided.enforced && !matches!(decided.action, Action::Tag | Action::Allow))
    }
}

impl Trial {
    /// A session that the server greets with a line, its line end included. `sizes` are those of the messages in the mailbox.
    #[must_use]
    pub fn new(policy: Policy, sizes: BTreeMap<u64, u64>, greeting: &[u8]) -> Self {
        let tap = Tap::new(Notes::default(), policy, 1000, Arc::new(Pool::new(1)));
        let mut trial = Self { tap, server: Server::new(sizes), greeting: Outcome::default() };
        trial.put(Peer::Upstream, greeting);
        trial.settle();
        trial.greeting = trial.take();
        trial
    }

    /// What became of the greeting.
    #[must_use]
    pub fn greeting(&self) -> &Outcome {
        &self.greeting
    }

    /// A name that was said, and whether a login went through, before what is tried: whatever the rules say of either. Without
    /// a name, the login does not tell who it is. Returns whether that could be.
    pub fn presume(&mut self, user: Option<&str>, logged_in: bool) -> bool {
        let rules = self.tap.filter().suspend_rules();
        if let Some(user) = user {
            self.put_line(format!("USER {user}").as_bytes());
            self.settle();
        }
        if logged_in {
            self.server.expect(Some(Script { status: b"+OK\r\n".to_vec(), ..Script::default() }));
            self.put_line(if user.is_some() { b"PASS x" } else { b"AUTH GSSAPI" });
        }
        // What follows from the login is the rules' affair.
        self.tap.filter().resume_rules(rules);
        self.settle();
        self.take();
        !self.is_over() && (self.tap.stage() == Stage::Transaction) == logged_in
    }

    /// The client says a line, its line end not included, when all before it was answered. `script` is what the server says to
    /// it, if it is to say something else than what suits the line.
    pub fn say(&mut self, line: &[u8], script: Option<Script>) -> Outcome {
        if self.tap.wants_read(Peer::Client) && !self.is_over() {
            self.server.expect(script);
            self.put_line(line);
            self.settle();
            self.server.expect(None);
        }
        self.take()
    }

    /// Whether the client's next line is a response in a SASL exchange (RFC 5034 §4).
    #[must_use]
    pub fn awaits_response(&self) -> bool {
        self.server.is_in_exchange()
    }

    /// Whether the client's STLS was agreed to (RFC 2595 §4): call [`Trial::secure`] before anything else is said.
    #[must_use]
    pub fn starts_tls(&self) -> bool {
        self.tap.is_handing_over()
    }

    /// TLS stands on the client's hop: `policy` decides from here on.
    pub fn secure(&mut self, policy: Policy) {
        self.tap.secured(policy);
    }

    /// Whether nothing more is taken from the client.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tap.is_dismissed() || self.tap.violation().is_some()
    }

    fn put_line(&mut self, line: &[u8]) {
        self.put(Peer::Client, line);
        self.put(Peer::Client, b"\r\n");
    }

    /// At most what a buffer holds; less only from a line that is refused for its length.
    fn put(&mut self, peer: Peer, mut octets: &[u8]) {
        while !octets.is_empty() && self.tap.wants_read(peer) {
            let space = self.tap.space(peer);
            let count = space.len().min(octets.len());
            space[..count].copy_from_slice(&octets[..count]);
            self.tap.filled(peer, count);
            octets = &octets[count..];
            self.tap.advance();
            self.deliver();
        }
    }

    /// Until nothing moves.
    fn settle(&mut self) {
        loop {
            self.tap.advance();
            self.deliver();
            let answer = match self.tap.observer().requests.pop_front() {
                Some((request, own)) => self.server.answer(&request, own),
                None if self.tap.is_within_reply() && self.tap.wants_read(Peer::Upstream) => self.server.body(),
                None => return,
            };
            self.put(Peer::Upstream, &answer);
        }
    }

    fn deliver(&mut self) {
        for from in [Peer::Client, Peer::Upstream] {
            while !self.tap.output(from).is_empty() {
                let octets = self.tap.output(from).to_vec();
                self.tap.wrote(from, octets.len());
                self.tap.advance();
                self.tap.observer().passed(from, &octets);
            }
        }
    }

    fn take(&mut self) -> Outcome {
        let closed = self.is_over();
        Outcome { closed, ..std::mem::take(&mut self.tap.observer().outcome) }
    }
}

/// Writes down what is decided, and what passes.
#[derive(Default)]
struct Notes {
    outcome: Outcome,
    /// Lines that have reached the server and await an answer, and whether poptap says them on its own account.
    requests: VecDeque<(Vec<u8>, bool)>,
    /// The line of which a part has reached the server.
    begun: Vec<u8>,
    /// Lines of poptap's own that are on their way.
    own: usize,
}

impl Notes {
    fn passed(&mut self, from: Peer, octets: &[u8]) {
        if from == Peer::Upstream {
            return self.outcome.client.extend_from_slice(octets);
        }
        for piece in octets.split_inclusive(|&octet| octet == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun);
                let own = self.own > 0;
                if own {
                    self.own -= 1;
                } else {
                    self.outcome.server.extend_from_slice(&line);
                }
                self.requests.push_back((line, own));
            }
        }
    }
}

impl Observer for Notes {
    fn ready(&self) -> bool {
        true
    }

    fn on(&mut self, event: &Event<'_>) {
        match event {
            Event::Command { own: true, .. } => self.own += 1,
            Event::Decision(Decision { action, rule, enforced, tag, .. }) => {
                let (rule, tag) = ((*rule).to_owned(), tag.map(str::to_owned));
                self.outcome.decisions.push(Decided { rule, action: *action, enforced: *enforced, tag });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Settings;

    const GREETING: &[u8] = b"+OK ready\r\n";

    #[test]
    fn without_rules_all_passes() {
        let mut trial = Trial::new(Policy::new(Settings::default(), None), BTreeMap::from([(1, 100), (2, 200)]), GREETING);
        for (line, told) in [
            ("USER bob", "+OK\r\n"),
            ("PASS x", "+OK\r\n"),
            ("STAT", "+OK 2 300\r\n"),
            ("LIST", "+OK\r\n1 100\r\n2 200\r\n.\r\n"),
            ("LIST 2", "+OK 2 200\r\n"),
            ("UIDL 3", "-ERR no such message\r\n"),
            ("RETR 1", "+OK 100 octets\r\n(the message)\r\n.\r\n"),
            ("XFOO", "+OK\r\n"),
        ] {
            let outcome = trial.say(line.as_bytes(), None);
            assert_eq!(String::from_utf8_lossy(&outcome.client), told, "{line}");
            assert_eq!(outcome.server, format!("{line}\r\n").as_bytes());
            assert!(!outcome.is_changed() && !outcome.closed);
        }
        let no = Script { status: b"-ERR no\r\n".to_vec(), ..Script::default() };
        assert_eq!(trial.say(b"DELE 1", Some(no)).client, b"-ERR no\r\n");
    }

    #[test]
    fn a_reply_of_several_lines_ends() {
        use crate::{
            config::{ReplyShape, Rule, RuleAction, When},
            policy::{Facts, Rules, Terms},
            tap::Caps,
        };
        let (name, shape) = ("listing".into(), Some(ReplyShape::MultiLine));
        let when = When { commands: vec![Box::from(&b"XLST"[..])], ..When::default() };
        let rule = Rule { name, enforced: true, when, action: RuleAction::Allow, reply_shape: shape };
        let rules = Arc::new(Rules::new(&[rule]).unwrap());
        let facts = Facts { client: [127, 0, 0, 1].into(), listener: ([127, 0, 0, 1], 1110).into(), upstream: "", tls: false };
        let terms = Terms::of_rules(rules.for_session(&facts), Caps { command: 512, sasl: 2048 });
        let mut trial = Trial::new(Policy::new(Settings::default(), Some(terms)), BTreeMap::new(), GREETING);
        assert_eq!(trial.say(b"XLST", None).client, b"+OK\r\n.\r\n");
        assert_eq!(trial.say(b"NOOP", None).client, b"+OK\r\n");
    }

    #[test]
    fn an_exchange_is_challenged_and_a_presumed_login_is_not_judged() {
        let mut trial = Trial::new(Policy::new(Settings::default(), None), BTreeMap::new(), GREETING);
        assert_eq!(trial.say(b"STLS", None).client, b"-ERR not here\r\n");
        assert_eq!(trial.say(b"AUTH LOGIN", None).client, b"+ \r\n");
        assert_eq!(trial.say(b"Ym9i", None).client, b"+ \r\n");
        assert!(trial.awaits_response());
        assert_eq!(trial.say(b"cHc=", None).client, b"+OK\r\n");
        assert!(!trial.awaits_response());
        for (user, logged_in) in [(None, true), (Some("bob"), true), (Some("bob"), false)] {
            let mut trial = Trial::new(Policy::new(Settings::default(), None), BTreeMap::from([(1, 5)]), GREETING);
            assert!(trial.presume(user, logged_in), "{user:?}");
        }
    }
}
