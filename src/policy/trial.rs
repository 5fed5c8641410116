//! Rules tried out: a session in memory, with a server that answers whatever reaches it.
//!
//! The rules are asked by the same filter, in the same tap, as in a session that is carried: there is no second engine.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::Policy;
use crate::{
    pop3::{Command, Keyword, Peer, Status},
    tap::{Action, Decision, Event, Observer, Pool, Tap},
};

/// A session that is tried.
pub struct Trial {
    tap: Tap<Notes, Policy>,
    server: Server,
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
    /// A session that was greeted. `sizes` are those of the messages in the mailbox.
    #[must_use]
    pub fn new(policy: Policy, sizes: BTreeMap<u64, u64>) -> Self {
        let tap = Tap::new(Notes::default(), policy, 1000, Arc::new(Pool::new(1)));
        let mut trial = Self { tap, server: Server { sizes, told: None } };
        trial.put(Peer::Upstream, b"+OK ready\r\n");
        trial.settle();
        trial.take();
        trial
    }

    /// The client says a line, its line end not included, when all before it was answered. `status` is what the server says to
    /// it, if it is to say something else than what suits the line.
    pub fn say(&mut self, line: &[u8], status: Option<Status>) -> Outcome {
        if self.tap.wants_read(Peer::Client) && !self.is_over() {
            self.server.told = status;
            self.put(Peer::Client, line);
            self.put(Peer::Client, b"\r\n");
            self.settle();
        }
        self.take()
    }

    /// Whether nothing more is taken from the client.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tap.is_dismissed() || self.tap.violation().is_some()
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
            let Some(request) = self.tap.observer().requests.pop_front() else {
                // A reply that the rules say has more than one line.
                if !self.tap.is_within_reply() || !self.tap.wants_read(Peer::Upstream) {
                    return;
                }
                self.put(Peer::Upstream, b".\r\n");
                continue;
            };
            let answer = self.server.answer(&request);
            self.put(Peer::Upstream, answer.as_bytes());
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
    /// Lines that have reached the server and await an answer.
    requests: VecDeque<Vec<u8>>,
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
                if self.own > 0 {
                    self.own -= 1;
                } else {
                    self.outcome.server.extend_from_slice(&line);
                }
                self.requests.push_back(line);
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

/// A server that says yes.
struct Server {
    sizes: BTreeMap<u64, u64>,
    /// What it is to say to the next command that is not poptap's own.
    told: Option<Status>,
}

impl Server {
    fn answer(&mut self, request: &[u8]) -> String {
        let command = Command::parse(request.trim_ascii_end());
        if self.told.take() == Some(Status::Err) {
            return "-ERR no\r\n".to_owned();
        }
        let number = command.arguments().next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        match (command.keyword, number) {
            (Keyword::List, Some(number)) => self.about(number, |size| size.to_string()),
            (Keyword::Uidl, Some(number)) => self.about(number, |_| format!("uid{number}")),
            (Keyword::List, None) => self.listing(|_, size| size.to_string()),
            (Keyword::Uidl, None) => self.listing(|number, _| format!("uid{number}")),
            (Keyword::Retr | Keyword::Top, _) => "+OK\r\n(the message)\r\n.\r\n".to_owned(),
            (Keyword::Capa, _) => "+OK\r\nTOP\r\nUIDL\r\nUSER\r\nSASL PLAIN\r\n.\r\n".to_owned(),
            (Keyword::Stat, _) => format!("+OK {} {}\r\n", self.sizes.len(), self.sizes.values().sum::<u64>()),
            _ => "+OK\r\n".to_owned(),
        }
    }

    fn about(&self, number: u64, what: impl Fn(u64) -> String) -> String {
        let size = self.sizes.get(&number).copied();
        size.map_or_else(|| "-ERR no such message\r\n".to_owned(), |size| format!("+OK {number} {}\r\n", what(size)))
    }

    fn listing(&self, what: impl Fn(u64, u64) -> String) -> String {
        let lines: Vec<_> = self.sizes.iter().map(|(&number, &size)| format!("{number} {}\r\n", what(number, size))).collect();
        format!("+OK\r\n{}.\r\n", lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Settings;

    #[test]
    fn without_rules_all_passes() {
        let mut trial = Trial::new(Policy::new(Settings::default(), None), BTreeMap::from([(1, 100), (2, 200)]));
        for (line, told) in [
            ("USER bob", "+OK\r\n"),
            ("PASS x", "+OK\r\n"),
            ("STAT", "+OK 2 300\r\n"),
            ("LIST", "+OK\r\n1 100\r\n2 200\r\n.\r\n"),
            ("LIST 2", "+OK 2 200\r\n"),
            ("UIDL 3", "-ERR no such message\r\n"),
            ("RETR 1", "+OK\r\n(the message)\r\n.\r\n"),
            ("XFOO", "+OK\r\n"),
        ] {
            let outcome = trial.say(line.as_bytes(), None);
            assert_eq!(String::from_utf8_lossy(&outcome.client), told, "{line}");
            assert_eq!(outcome.server, format!("{line}\r\n").as_bytes());
            assert!(!outcome.is_changed() && !outcome.closed);
        }
        assert_eq!(trial.say(b"DELE 1", Some(Status::Err)).client, b"-ERR no\r\n");
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
        let mut trial = Trial::new(Policy::new(Settings::default(), Some(terms)), BTreeMap::new());
        assert_eq!(trial.say(b"XLST", None).client, b"+OK\r\n.\r\n");
        assert_eq!(trial.say(b"NOOP", None).client, b"+OK\r\n");
    }
}
