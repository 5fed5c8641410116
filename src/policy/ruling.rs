//! What the rules say of one command.

use std::{collections::VecDeque, sync::Arc};

use super::{
    replies::ReplyEdits,
    rules::{Compiled, normalise},
};
use crate::{
    config::RuleAction,
    pop3::{Command, Keyword, Wants},
    tap::{Action, Note, Rule, Verdict, is_malformed},
};

/// What the rules say of a command.
pub(super) struct Ruling {
    pub(super) decision: Decided,
    pub(super) edits: ReplyEdits,
}

pub(super) enum Decided {
    /// It does not go to the server.
    Refused(Verdict),
    /// It is a deletion that the server is not to see.
    Shielded(Rule),
    /// It goes on.
    Onward(Onward),
}

/// How a command goes on.
#[derive(Default)]
pub(super) struct Onward {
    /// As another line.
    pub(super) rewritten: Option<(Vec<u8>, Rule)>,
    /// Whether a rule says that it may: the shield asks no further.
    pub(super) is_allowed: bool,
    pub(super) wants: Wants,
}

const NOT_A_LINE: &[u8] = b"-ERR not allowed here\r\n";

/// What an enforced rule does to a command.
pub(super) fn decide(rule: &Compiled, command: &Command<'_>, notes: &mut VecDeque<Note>) -> Decided {
    let name = named(rule);
    let answer = |text: &Arc<[u8]>| Verdict::Answer { text: text.clone(), action: Action::Answer, rule: named(rule) };
    match &rule.action {
        RuleAction::Deny(text) | RuleAction::Reply(text) => Decided::Refused(answer(text)),
        RuleAction::Close(text) => Decided::Refused(Verdict::Dismiss { text: text.clone(), rule: name }),
        RuleAction::Shield => Decided::Shielded(name),
        RuleAction::Rewrite(_) => match rewritten(rule, command) {
            Ok(line) => {
                let is_allowed = line.is_some();
                Decided::Onward(Onward { rewritten: line.map(|line| (line, name)), is_allowed, wants: Wants::default() })
            }
            Err(text) => Decided::Refused(refuse_as(text, name)),
        },
        _ => {
            notes.push_back(note(rule));
            let wants = Wants { shape: rule.shape, ..Wants::default() };
            Decided::Onward(Onward { rewritten: None, is_allowed: true, wants })
        }
    }
}

/// The line that a rule makes of a command, line end included; `None` where it stays as it is.
///
/// # Errors
///
/// What the client is told where that is no line that may go on.
fn rewritten(rule: &Compiled, command: &Command<'_>) -> Result<Option<Vec<u8>>, &'static [u8]> {
    let Some(mut line) = rule.rewrite(&normalise(command.line)) else { return Ok(None) };
    // What would be refused if the client said it must not come of a rule either.
    let is_broken = line.contains(&b'\n') || is_malformed(&line);
    let sent = Command::parse(&line);
    if is_broken || sent.word.is_empty() || has_odd_number(&sent) || line.len() > LONGEST_REWRITTEN {
        return Err(NOT_A_LINE);
    }
    line.extend_from_slice(b"\r\n");
    Ok(Some(line))
}

/// A command's limit without its line end (RFC 2449 §4 says 255 in all; servers take 512).
const LONGEST_REWRITTEN: usize = 510;

pub(super) fn named(rule: &Compiled) -> Rule {
    Rule::Named(rule.name.clone())
}

/// What a rule does, or would, as it is recorded.
pub(super) fn note(rule: &Compiled) -> Note {
    let tag = if let RuleAction::Tag(word) = &rule.action { word.as_deref().map(Arc::from) } else { None };
    Note { action: action_of(&rule.action), rule: named(rule), enforced: rule.enforced, tag }
}

fn action_of(action: &RuleAction) -> Action {
    match action {
        RuleAction::Allow => Action::Allow,
        RuleAction::Deny(_) | RuleAction::Reply(_) => Action::Answer,
        RuleAction::Rewrite(_) => Action::Rewrite,
        RuleAction::Shield => Action::Shield,
        RuleAction::Close(_) => Action::Close,
        RuleAction::Tag(_) => Action::Tag,
        RuleAction::RewriteReply { .. } | RuleAction::RewriteGreeting { .. } => Action::EditLine,
        RuleAction::RemoveCapability(_) => Action::RemoveLine,
        RuleAction::AddCapability(_) => Action::AddLine,
    }
}

pub(super) fn refuse(text: &'static [u8], rule: &'static str) -> Verdict {
    refuse_as(text, Rule::BuiltIn(rule))
}

pub(super) fn refuse_as(text: &'static [u8], rule: Rule) -> Verdict {
    Verdict::Answer { text: Arc::from(text), action: Action::Answer, rule }
}

/// The number of the message that a command line is about (its line end not included), where it is about one.
#[must_use]
pub fn message_in(line: &[u8]) -> Option<u64> {
    message_number(&Command::parse(line))
}

/// Whether a command's first argument is a message number.
fn names_message(command: &Command<'_>) -> bool {
    let takes_one = matches!(command.keyword, Keyword::Retr | Keyword::Top | Keyword::Dele | Keyword::List | Keyword::Uidl);
    takes_one && command.has_argument()
}

/// Whether a command names a message otherwise than plainly. Servers read a number in their own ways: `+1`, `1x`, `01` and
/// `4294967297` are all message 1 for some.
pub(super) fn has_odd_number(command: &Command<'_>) -> bool {
    let is_plain = |word: &[u8]| word.len() <= 10 && word.iter().all(u8::is_ascii_digit);
    let is_message = |number| number <= LARGEST_NUMBER;
    names_message(command)
        && !(command.arguments().next().is_some_and(is_plain) && message_number(command).is_some_and(is_message))
}

pub(super) fn message_number(command: &Command<'_>) -> Option<u64> {
    let word = command.arguments().next().filter(|_| names_message(command))?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Courier keeps numbers in 32 bits, and drops what does not fit.
const LARGEST_NUMBER: u64 = i32::MAX as u64;
