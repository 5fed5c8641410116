//! The user's rules: which of them hold for a command. What becomes of it is done elsewhere.
//!
//! A command is judged on its way, so this is made to cost next to nothing where no rule holds: conditions that are settled when
//! a session begins are looked at once, and the patterns of all rules are looked for in one pass over the line.

mod compiled;
mod glance;
mod normal;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    cell::OnceCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use regex::bytes::{RegexSet, SetMatches};

use crate::{
    config::{Pattern, Rule, RuleAction},
    pop3::Stage,
};

use glance::{Glance, Needs, bit};

pub use compiled::Compiled;
pub use normal::normalise;

/// All rules, compiled; shared by all sessions.
#[derive(Debug)]
pub struct Rules {
    all: Vec<Arc<Compiled>>,
    lines: RegexSet,
    users: RegexSet,
}

impl Rules {
    /// Compiles rules. An empty list is a valid one.
    ///
    /// # Errors
    ///
    /// When the patterns, each of which is known to compile, do not together.
    pub fn new(rules: &[Rule]) -> Result<Self, regex::Error> {
        let (mut lines, mut users) = (Vec::new(), Vec::new());
        let all: Result<_, _> = rules.iter().map(|rule| Compiled::new(rule, &mut lines, &mut users).map(Arc::new)).collect();
        Ok(Self { all: all?, lines: Pattern::set_of_octets(&lines)?, users: Pattern::set_of_names(&users)? })
    }

    /// Those that may hold in a session. Where TLS starts within it (STLS), ask again.
    #[must_use]
    pub fn for_session(self: &Arc<Self>, facts: &Facts<'_>) -> Applicable {
        let possible = || self.all.iter().enumerate().filter(|(_, rule)| rule.is_possible(facts));
        let commands: Box<[Glance]> =
            possible().filter(|(_, rule)| !rule.is_for_greeting()).map(|(index, rule)| Glance::of(index, rule)).collect();
        let has = |pattern: fn(&Compiled) -> bool| commands.iter().any(|glance| pattern(&self.all[glance.rule]));
        let without_line = commands.iter().filter(|glance| !self.all[glance.rule].has_line()).copied().collect();
        Applicable {
            rules: Arc::clone(self),
            without_line,
            needs: Needs { line: has(Compiled::has_line), user: has(Compiled::has_user) },
            greeting: possible().filter(|(_, rule)| rule.is_for_greeting()).map(|(index, _)| index).collect(),
            commands,
        }
    }
}

/// What is known when a session begins, and stays.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client's address; an IPv4 address within IPv6 is taken for what it is.
    pub client: IpAddr,
    /// The listener that it came to, its address as configured.
    pub listener: SocketAddr,
    /// The name of the mail server that it is carried to.
    pub upstream: &'a str,
    /// Whether the client's hop is TLS.
    pub tls: bool,
}

/// The rules that may hold in one session, in order.
#[derive(Clone, Debug)]
pub struct Applicable {
    rules: Arc<Rules>,
    /// Those for commands and their replies.
    commands: Box<[Glance]>,
    /// Whether any of them has such a pattern.
    needs: Needs,
    greeting: Box<[usize]>,
    /// Those of them that hold whatever the line is like.
    without_line: Box<[Glance]>,
}

impl Applicable {
    /// Whether there are none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// The same rules, none of which applies.
    #[must_use]
    pub fn none(&self) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
            commands: Box::default(),
            needs: Needs { line: false, user: false },
            greeting: Box::default(),
            without_line: Box::default(),
        }
    }

    /// Whether any of them acts.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.all().any(|rule| rule.enforced)
    }

    /// Whether any of them asks for the size of a message, even if it does not act.
    #[must_use]
    pub fn wants_sizes(&self) -> bool {
        self.all().any(|rule| rule.has_size())
    }

    /// Whether one that acts asks for the size of a message.
    #[must_use]
    pub fn enforces_sizes(&self) -> bool {
        self.all().any(|rule| rule.enforced && rule.has_size())
    }

    /// Whether a DELE of this user's may be shielded. A user who is not known yet may be anybody.
    #[must_use]
    pub fn may_shield(&self, user: Option<&str>) -> bool {
        let users = user.map(|user| Hits::new(&self.rules.users, user.as_bytes().into()));
        self.all().any(|rule| rule.enforced && rule.action == RuleAction::Shield && rule.is_of(users.as_ref(), false))
    }

    /// Whether one that acts edits what CAPA lists.
    #[must_use]
    pub fn edits_capabilities(&self) -> bool {
        let edits = |action: &RuleAction| matches!(action, RuleAction::RemoveCapability(_) | RuleAction::AddCapability(_));
        self.all().any(|rule| rule.enforced && edits(&rule.action))
    }

    /// Whether one that acts edits the text of replies.
    #[must_use]
    pub fn edits_replies(&self) -> bool {
        self.all().any(|rule| rule.enforced && matches!(rule.action, RuleAction::RewriteReply { .. }))
    }

    /// Those that edit the greeting, or would, in order: each is for what the one before it made.
    pub fn greeting(&self) -> impl Iterator<Item = &Arc<Compiled>> {
        self.greeting.iter().map(|index| &self.rules.all[*index])
    }

    /// What the rules say to a command.
    #[must_use]
    pub fn judge(&self, question: &Question<'_>) -> Findings<'_> {
        let line = if self.needs.line { normalise(question.line) } else { Cow::default() };
        let lines = Hits::new(&self.rules.lines, line);
        let users = question.user.map(|user| Hits::new(&self.rules.users, user.as_bytes().into()));
        let word = bit(question.word);
        let found = Needs { line: self.needs.line && lines.any(), user: self.needs.user && users.as_ref().is_none_or(Hits::any) };
        let mut findings = Findings::default();
        let asked = if found.line { &self.commands } else { &self.without_line };
        for glance in asked.iter().filter(|glance| glance.may_hold(word, found)) {
            let rule = &self.rules.all[glance.rule];
            if rule.holds(question, &lines, users.as_ref()) && findings.take(rule) {
                break;
            }
        }
        findings
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Compiled>> {
        self.commands.iter().map(|glance| &self.rules.all[glance.rule]).chain(self.greeting())
    }
}

/// A command, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The line as it came; its line end may be there or not.
    pub line: &'a [u8],
    /// Its first word, see [`Command::word`](crate::pop3::Command::word).
    pub word: &'a [u8],
    /// Before or after the login.
    pub stage: Stage,
    /// Who logged in, or tries to.
    pub user: Option<&'a str>,
    /// Whether that is about to be told, so that it is asked again then: rules about users hold for nobody until then.
    pub user_pending: bool,
    /// The number of the message that it is about.
    pub message: Option<u64>,
    /// The size of that message in octets.
    pub size: Option<u64>,
}

/// The rules that hold for a command.
#[derive(Clone, Debug, Default)]
pub struct Findings<'a> {
    /// The one that decides; none forwards the command.
    pub decides: Option<&'a Arc<Compiled>>,
    /// Those before it that act without deciding (`tag`, and edits of the reply), in order.
    pub beside: Vec<&'a Arc<Compiled>>,
    /// Those before it that do not act, and would, in order.
    pub would: Vec<&'a Arc<Compiled>>,
}

impl<'a> Findings<'a> {
    /// Whether this settles it.
    fn take(&mut self, rule: &'a Arc<Compiled>) -> bool {
        if !rule.enforced {
            self.would.push(rule);
        } else if rule.action.decides() {
            self.decides = Some(rule);
        } else {
            self.beside.push(rule);
        }
        self.decides.is_some()
    }
}

/// Which patterns are in a text: looked for when it is first asked, and all at once.
struct Hits<'a> {
    patterns: &'a RegexSet,
    text: Cow<'a, [u8]>,
    any: OnceCell<bool>,
    which: OnceCell<SetMatches>,
}

impl<'a> Hits<'a> {
    fn new(patterns: &'a RegexSet, text: Cow<'a, [u8]>) -> Self {
        Self { patterns, text, any: OnceCell::new(), which: OnceCell::new() }
    }

    /// Quick, and takes no memory; to tell which is neither.
    fn any(&self) -> bool {
        *self.any.get_or_init(|| self.patterns.is_match(&self.text))
    }

    fn has(&self, pattern: usize) -> bool {
        self.any() && self.which.get_or_init(|| self.patterns.matches(&self.text)).matched(pattern)
    }
}
