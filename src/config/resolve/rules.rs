//! Rules: those of the flags, then those of the file.

mod action;
mod conditions;
mod warnings;

use std::{ops::Range, sync::Arc};

use toml::Spanned;

use crate::{
    config::{
        Listener, ReplyShape, Rule, RuleAction, When,
        fault::Fault,
        rule::{LONGEST_NAME, RuleMode, RuleSection, WhenSection, refusal},
    },
    pop3::Keyword,
};

use super::Resolver;

/// What a client is told that is denied something, when the rule says nothing else.
const DENIED: &str = "not allowed here";
/// What it is told before the session is closed.
const CLOSED: &str = "not allowed here, and the session ends";

impl Resolver<'_> {
    pub(super) fn rules(&mut self, sections: &[Spanned<RuleSection>], dry_run: bool, listeners: &[Listener]) -> Vec<Rule> {
        let mut rules = self.rules_of_flags();
        for section in sections {
            let Some(rule) = self.rule(section, listeners) else { continue };
            if rules.iter().any(|other| other.name == rule.name) {
                let span = section.get_ref().name.as_ref().map(Spanned::span);
                self.fault(Fault::new(format!("there are two rules `{}`", rule.name), "give each a name of its own"), span);
            }
            rules.push(rule);
        }
        if dry_run || self.args.dry_run {
            for rule in &mut rules {
                rule.enforced = false;
            }
        }
        self.warn_of_rules(&rules);
        rules
    }

    fn rules_of_flags(&self) -> Vec<Rule> {
        let rule = |name: String, when: When, action: RuleAction| Rule {
            name: name.into(),
            enforced: true,
            when,
            action,
            reply_shape: None,
        };
        let mut rules: Vec<Rule> = Vec::new();
        for word in &self.args.deny {
            let name: String = format!("--deny {word}").chars().take(LONGEST_NAME).collect();
            let when = When { commands: vec![word.as_str().as_bytes().into()], ..When::default() };
            if rules.iter().all(|other| other.when != when) {
                rules.push(rule(name, when, RuleAction::Deny(refusal(DENIED))));
            }
        }
        if self.args.shield {
            rules.push(rule("--shield".to_owned(), When::default(), RuleAction::Shield));
        }
        rules
    }

    fn rule(&mut self, section: &Spanned<RuleSection>, listeners: &[Listener]) -> Option<Rule> {
        let raw = section.get_ref();
        if raw.name.is_none() && !self.is_broken(&["name"]) {
            let fault =
                Fault::new("this rule has no `name`", "add one, such as `name = \"read-only\"`: transcripts name the rule");
            self.fault(fault, Some(section.span()));
        }
        if raw.action.is_none() && !self.is_broken(&["action"]) {
            self.fault(Fault::new("this rule has no `action`", "add one, such as `action = \"deny\"`"), Some(section.span()));
        }
        let when = self.conditions(&raw.when, listeners);
        let action = self.action(raw.action.as_ref()?, &raw.when)?;
        let name = raw.name.as_ref()?.get_ref();
        self.fitting(&action, &raw.when);
        let reply_shape = raw.reply_shape.as_ref().map(|shape| self.reply_shape(shape, &action, &when));
        let enforced = raw.mode.unwrap_or_default() == RuleMode::Enforce;
        Some(Rule { name: Arc::from(name.0.as_str()), enforced, when, action, reply_shape })
    }

    /// Only poptap can be at a loss about the shape, and only where the server answers.
    fn reply_shape(&mut self, shape: &Spanned<ReplyShape>, action: &RuleAction, when: &When) -> ReplyShape {
        let known = when.commands.iter().find(|word| Keyword::parse(word) != Keyword::Unknown);
        let fault = if *action != RuleAction::Allow {
            Some(Fault::new("`reply_shape` is for commands that are allowed", "leave it out, or write `action = \"allow\"`"))
        } else if let Some(word) = known {
            let word = String::from_utf8_lossy(word).into_owned();
            Some(Fault::new(format!("poptap knows the shape of the replies to {word}"), "leave `reply_shape` out"))
        } else if when.commands.is_empty() {
            let hint = "name them, such as `when = { command = \"XFOO\" }`";
            Some(Fault::new("it is not said whose replies have this `reply_shape`", hint))
        } else {
            None
        };
        if let Some(fault) = fault {
            self.fault(fault, Some(shape.span()));
        }
        *shape.get_ref()
    }

    /// Whether the conditions can ever hold where this action has its place.
    fn fitting(&mut self, action: &RuleAction, when: &WhenSection) {
        let unfit: &[&str] = match action {
            RuleAction::RewriteGreeting { .. } => &["command", "line", "stage", "user", "message", "size"],
            RuleAction::RemoveCapability(_) | RuleAction::AddCapability(_) => &["command", "line", "message", "size"],
            _ => &[],
        };
        let hint = match action {
            RuleAction::RewriteGreeting { .. } => {
                "the greeting comes first: `client`, `listener`, `upstream` and `tls` are known then"
            }
            _ => "leave it out: it holds for CAPA alone",
        };
        for (key, span) in given(when) {
            if unfit.contains(&key) {
                self.fault(Fault::new(format!("`{key}` does not go with `{}`", action.name()), hint), Some(span));
            }
        }
        if let (RuleAction::Shield, Some(commands)) = (action, &when.command)
            && commands.get_ref().as_slice().iter().any(|word| word.as_str() != "DELE")
        {
            let fault = Fault::new("`shield` is for DELE alone", "write `command = \"DELE\"`, or leave `command` out");
            self.fault(fault, Some(commands.span()));
        }
    }
}

/// The conditions that say something of a command, with their places.
fn given(when: &WhenSection) -> impl Iterator<Item = (&'static str, Range<usize>)> {
    let span = |key, span: Option<Range<usize>>| span.map(|span| (key, span));
    [
        span("command", when.command.as_ref().map(Spanned::span)),
        span("line", when.line.as_ref().map(Spanned::span)),
        span("stage", when.stage.as_ref().map(Spanned::span)),
        span("user", when.user.as_ref().map(Spanned::span)),
        span("message", when.message.as_ref().map(Spanned::span)),
        span("size", when.size.as_ref().map(Spanned::span)),
    ]
    .into_iter()
    .flatten()
}
