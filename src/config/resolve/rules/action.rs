//! What a rule does: exactly one thing, with what belongs to it.

use toml::Spanned;

use crate::{
    config::{
        Pattern, RuleAction,
        fault::Fault,
        resolve::Resolver,
        rule::{ActionSection, ActionTable, ActionWord, Line, OneOrMany, WhenSection, multi_line, refusal, single_line},
    },
    pop3::Status,
};

use super::{CLOSED, DENIED};

/// Octets of the longest reply that a rule may give.
const LONGEST_REPLY: usize = 16 << 10;

impl Resolver<'_> {
    /// `None` when there is a fault.
    pub(super) fn action(&mut self, section: &Spanned<ActionSection>, when: &WhenSection) -> Option<RuleAction> {
        let action = match section.get_ref() {
            ActionSection::Word(word) => Ok(of_word(*word)),
            ActionSection::Table(table) => of_table(table, when),
        };
        let fault = match action {
            Ok(action) => return Some(action),
            Err(fault) => fault,
        };
        let parts = ["line", "deny", "reply", "rewrite", "close", "tag", "rewrite_reply", "rewrite_greeting", "matching"];
        let capabilities = ["remove_capability", "add_capability"];
        if !self.is_broken(&parts) && !self.is_broken(&capabilities) && !self.has_fault_within(&section.span()) {
            self.fault(fault, Some(section.span()));
        }
        None
    }
}

fn of_word(word: ActionWord) -> RuleAction {
    match word {
        ActionWord::Allow => RuleAction::Allow,
        ActionWord::Deny => RuleAction::Deny(refusal(DENIED)),
        ActionWord::Shield => RuleAction::Shield,
        ActionWord::Close => RuleAction::Close(refusal(CLOSED)),
        ActionWord::Tag => RuleAction::Tag(None),
    }
}

fn of_table(table: &ActionTable, when: &WhenSection) -> Result<RuleAction, Fault> {
    let mut given = every_action(table, when).into_iter().flatten();
    let edits_text = table.rewrite_reply.is_some() || table.rewrite_greeting.is_some();
    match (given.next(), given.next()) {
        (Some(_), Some(_)) => Err(Fault::new("a rule has one action, and here are several", "make them rules of their own")),
        (None, _) => Err(Fault::new("there is no action in this table", "add one, such as `deny = \"text\"`")),
        (Some(_), None) if table.matching.is_some() && !edits_text => {
            let hint = "leave it out; what a rewritten command has to match is said by `line`";
            Err(Fault::new("`matching` goes with `rewrite_reply` and `rewrite_greeting` alone", hint))
        }
        (Some(action), None) => action,
    }
}

/// Those that are there.
fn every_action(table: &ActionTable, when: &WhenSection) -> [Option<Result<RuleAction, Fault>>; 9] {
    let matching = || table.matching.as_ref().map(|pattern| &pattern.0);
    let line = || when.line.as_ref().map(|pattern| &pattern.get_ref().0);
    [
        table.deny.as_ref().map(|text| Ok(RuleAction::Deny(refusal(&text.0)))),
        table.close.as_ref().map(|text| Ok(RuleAction::Close(refusal(&text.0)))),
        table.tag.as_ref().map(|word| Ok(RuleAction::Tag(Some(word.0.clone())))),
        table.reply.as_ref().map(reply),
        table.rewrite.as_ref().map(|with| replacing("line", line(), with, |_, with| RuleAction::Rewrite(with))),
        table
            .rewrite_reply
            .as_ref()
            .map(|with| replacing("matching", matching(), with, |matching, with| RuleAction::RewriteReply { matching, with })),
        table
            .rewrite_greeting
            .as_ref()
            .map(|with| replacing("matching", matching(), with, |matching, with| RuleAction::RewriteGreeting { matching, with })),
        table
            .remove_capability
            .as_ref()
            .map(|tags| Ok(RuleAction::RemoveCapability(tags.as_slice().iter().map(|tag| tag.0.to_ascii_uppercase()).collect()))),
        table.add_capability.as_ref().map(capabilities),
    ]
}

fn reply(lines: &OneOrMany<Line>) -> Result<RuleAction, Fault> {
    let (first, body) = match lines {
        OneOrMany::One(text) => return Ok(RuleAction::Reply(single_line(&text.0))),
        OneOrMany::Many(lines) => lines.split_first().map_or(("", &[][..]), |(first, body)| (first.0.as_str(), body)),
    };
    if Status::of(first.as_bytes()) == Some(Status::Err) {
        let hint = "write its text alone, without brackets, or begin the first line with `+OK`";
        return Err(Fault::new("a reply that begins with `-ERR` has one line", hint));
    }
    let whole = multi_line(first, body.iter().map(|line| line.0.as_str()));
    if whole.len() > LONGEST_REPLY {
        return Err(Fault::new(
            format!("this reply has {} octets, and may have {LONGEST_REPLY}", whole.len()),
            "make it shorter",
        ));
    }
    Ok(RuleAction::Reply(whole))
}

/// A replacement whose groups are there.
fn replacing(
    key: &str,
    pattern: Option<&Pattern>,
    with: &Line,
    action: impl Fn(Pattern, String) -> RuleAction,
) -> Result<RuleAction, Fault> {
    let Some(pattern) = pattern else {
        return Err(Fault::new(format!("it is not said what is replaced: there is no `{key}`"), "add a pattern"));
    };
    match pattern.missing_group(&with.0) {
        None => Ok(action(pattern.clone(), with.0.clone())),
        Some(group) => Err(Fault::new(
            format!("there is no group `{group}` in the pattern under `{key}`"),
            "`$1` is the first pair of parentheses; where a letter, a digit or `_` follows, write `${1}`; `$$` is a `$`",
        )),
    }
}

fn capabilities(lines: &OneOrMany<Line>) -> Result<RuleAction, Fault> {
    let lines: Vec<String> = lines.as_slice().iter().map(|line| line.0.clone()).collect();
    if lines.iter().all(|line| line.starts_with(|first: char| first.is_ascii_graphic() && first != '.')) {
        return Ok(RuleAction::AddCapability(lines));
    }
    Err(Fault::new("a capability begins with its tag", "write `X-FOO` or `X-FOO bar`"))
}
