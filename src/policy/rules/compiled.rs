//! One rule: its conditions, and the texts that it makes.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use regex::bytes::Regex;

use crate::{
    config::{Pattern, ReplyShape, Rule, RuleAction, SizeBound},
    pop3::{Shape, Stage},
};

use super::{Facts, Hits, Question};

/// A rule that is ready to be asked.
#[derive(Debug)]
pub struct Compiled {
    /// Its name.
    pub name: Arc<str>,
    /// What it does.
    pub action: RuleAction,
    /// Whether it acts; otherwise it is only recorded that it would.
    pub enforced: bool,
    /// The shape of the replies to the unknown commands that it allows.
    pub shape: Option<Shape>,
    session: Session,
    command: Conditions,
    /// What is replaced, and by what.
    replaces: Option<(Regex, String)>,
}

/// What is settled when a session begins.
#[derive(Debug)]
struct Session {
    clients: Box<[IpNet]>,
    listeners: Box<[SocketAddr]>,
    upstreams: Box<[String]>,
    tls: Option<bool>,
}

/// What is asked of each command.
#[derive(Debug)]
struct Conditions {
    stage: Option<Stage>,
    commands: Box<[Box<[u8]>]>,
    messages: Box<[RangeInclusive<u64>]>,
    size: Option<SizeBound>,
    /// The place of the pattern among all of its kind, here and below.
    line: Option<usize>,
    user: Option<usize>,
}

impl Compiled {
    /// Its patterns are put behind those of the rules before it.
    pub(super) fn new<'r>(
        rule: &'r Rule,
        lines: &mut Vec<&'r Pattern>,
        users: &mut Vec<&'r Pattern>,
    ) -> Result<Self, regex::Error> {
        let when = &rule.when;
        Ok(Self {
            name: Arc::clone(&rule.name),
            action: rule.action.clone(),
            enforced: rule.enforced,
            shape: rule.reply_shape.map(|shape| match shape {
                ReplyShape::SingleLine => Shape::SingleLine,
                ReplyShape::MultiLine => Shape::MultiLine,
            }),
            session: Session {
                clients: when.clients.as_slice().into(),
                listeners: when.listeners.as_slice().into(),
                upstreams: when.upstreams.as_slice().into(),
                tls: when.tls,
            },
            command: Conditions {
                stage: when.stage,
                commands: commands(rule),
                messages: when.messages.as_slice().into(),
                size: when.size,
                line: when.line.as_ref().map(|pattern| place_of(pattern, lines)),
                user: when.user.as_ref().map(|pattern| place_of(pattern, users)),
            },
            replaces: replaces(rule)?,
        })
    }

    /// The line that is forwarded in place of one that [`normalise`](super::normalise) made: the first match of the rule's
    /// `line` is replaced. `None` where that changes nothing, and for other actions.
    ///
    /// It has no line end, may be longer than the line that it is made of, and is not judged again.
    #[must_use]
    pub fn rewrite(&self, line: &[u8]) -> Option<Vec<u8>> {
        if matches!(self.action, RuleAction::Rewrite(_)) { self.replaced(line) } else { None }
    }

    /// The text that a status line gets in place of `text`, which is what follows its status, without its line end: the first
    /// match is replaced. `None` where that changes nothing, and for actions other than `rewrite_reply` and `rewrite_greeting`.
    #[must_use]
    pub fn rewrite_text(&self, text: &[u8]) -> Option<Vec<u8>> {
        let edits = matches!(self.action, RuleAction::RewriteReply { .. } | RuleAction::RewriteGreeting { .. });
        if edits { self.replaced(text) } else { None }
    }

    fn replaced(&self, text: &[u8]) -> Option<Vec<u8>> {
        let (pattern, with) = self.replaces.as_ref()?;
        let made = pattern.replace(text, with.as_bytes());
        (*made != *text).then(|| made.into_owned())
    }

    pub(super) fn is_possible(&self, facts: &Facts<'_>) -> bool {
        let Session { clients, listeners, upstreams, tls } = &self.session;
        (clients.is_empty() || is_in(facts.client, clients))
            && (listeners.is_empty() || listeners.contains(&facts.listener))
            && (upstreams.is_empty() || upstreams.iter().any(|name| name == facts.upstream))
            && tls.is_none_or(|tls| tls == facts.tls)
    }

    /// The cheap conditions first.
    pub(super) fn holds(&self, question: &Question<'_>, lines: &Hits<'_>, users: Option<&Hits<'_>>) -> bool {
        let Conditions { stage, commands, messages, size, line, user: _ } = &self.command;
        // Behind QUIT there are no commands, or it was refused and the login still holds.
        stage.is_none_or(|stage| (stage == Stage::Authorization) == (question.stage == Stage::Authorization))
            && (commands.is_empty() || commands.iter().any(|word| word.eq_ignore_ascii_case(question.word)))
            && (messages.is_empty() || question.message.is_some_and(|number| is_among(number, messages)))
            && size.is_none_or(|bound| question.size.is_some_and(|octets| bound.holds(octets)))
            && line.is_none_or(|pattern| lines.has(pattern))
            && self.is_of(users, question.user_pending)
    }

    /// Whoever is not known yet may be the one that is meant. So the rule may keep commands from the server, and nothing else.
    pub(super) fn is_of(&self, users: Option<&Hits<'_>>, pending: bool) -> bool {
        let Some(pattern) = self.command.user else { return true };
        users.map_or_else(|| self.action.restricts() && !pending, |users| users.has(pattern))
    }

    /// The words that it is for, in upper case; none are all.
    pub(super) fn commands(&self) -> &[Box<[u8]>] {
        &self.command.commands
    }

    pub(super) fn has_user(&self) -> bool {
        self.command.user.is_some()
    }

    pub(super) fn has_line(&self) -> bool {
        self.command.line.is_some()
    }

    pub(super) fn has_size(&self) -> bool {
        self.command.size.is_some()
    }

    pub(super) fn is_for_greeting(&self) -> bool {
        matches!(self.action, RuleAction::RewriteGreeting { .. })
    }
}

/// Some actions are for one command alone.
fn commands(rule: &Rule) -> Box<[Box<[u8]>]> {
    match rule.action {
        RuleAction::Shield => [Box::from(&b"DELE"[..])].into(),
        RuleAction::RemoveCapability(_) | RuleAction::AddCapability(_) => [Box::from(&b"CAPA"[..])].into(),
        _ => rule.when.commands.as_slice().into(),
    }
}

fn replaces(rule: &Rule) -> Result<Option<(Regex, String)>, regex::Error> {
    let (pattern, with) = match &rule.action {
        RuleAction::Rewrite(with) => (rule.when.line.as_ref(), with),
        RuleAction::RewriteReply { matching, with } | RuleAction::RewriteGreeting { matching, with } => (Some(matching), with),
        _ => return Ok(None),
    };
    pattern.map(|pattern| Ok((pattern.regex()?, with.clone()))).transpose()
}

fn place_of<'r>(pattern: &'r Pattern, among: &mut Vec<&'r Pattern>) -> usize {
    among.push(pattern);
    among.len() - 1
}

fn is_in(client: IpAddr, networks: &[IpNet]) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|network| network.contains(&client))
}

fn is_among(number: u64, ranges: &[RangeInclusive<u64>]) -> bool {
    ranges.iter().any(|range| range.contains(&number))
}
