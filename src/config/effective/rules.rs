//! Rules → the sections that say the same.

use crate::{
    config::{
        Network, Rule, RuleAction, TlsMode, When,
        address::ListenAddress,
        rule::{
            ActionSection, ActionTable, ActionWord, Line, MessageRange, Name, NamePattern, OctetPattern, OneOrMany, RuleMode,
            RuleSection, StageName, Text, WhenSection, Word, reply, to_text,
        },
    },
    pop3::Stage,
};

use super::unplaced;

pub(super) fn section(rule: &Rule) -> RuleSection {
    RuleSection {
        name: Some(unplaced(Name(rule.name.to_string()))),
        mode: Some(if rule.enforced { RuleMode::Enforce } else { RuleMode::DryRun }),
        reply_shape: rule.reply_shape.map(unplaced),
        action: Some(unplaced(action(&rule.action))),
        when: conditions(&rule.when),
    }
}

fn conditions(when: &When) -> WhenSection {
    let words = |words: &[Box<[u8]>]| words.iter().filter_map(|word| String::from_utf8_lossy(word).parse().ok()).collect();
    let plain = |address| ListenAddress { tls: TlsMode::Plain, address };
    WhenSection {
        command: many(words(&when.commands)).map(unplaced),
        line: when.line.clone().map(|pattern| unplaced(OctetPattern(pattern))),
        stage: when
            .stage
            .map(|stage| unplaced(if stage == Stage::Authorization { StageName::Authorization } else { StageName::Transaction })),
        user: when.user.clone().map(|pattern| unplaced(NamePattern(pattern))),
        client: many(when.clients.iter().copied().map(Network::Of).collect()).map(unplaced),
        listener: many(when.listeners.iter().copied().map(plain).collect()).map(unplaced),
        upstream: many(when.upstreams.clone()).map(unplaced),
        tls: when.tls,
        message: many(when.messages.iter().cloned().map(MessageRange).collect()).map(unplaced),
        size: when.size.map(unplaced),
    }
}

fn many<T>(list: Vec<T>) -> Option<OneOrMany<T>> {
    Some(list).filter(|list| !list.is_empty()).map(OneOrMany::Many)
}

fn action(action: &RuleAction) -> ActionSection {
    let of = |refusal: &[u8]| Some(Text(to_text(refusal)));
    let lines = |lines: &[String]| many(lines.iter().cloned().map(Line).collect());
    let none = ActionTable::default;
    let table = match action {
        RuleAction::Allow => return ActionSection::Word(ActionWord::Allow),
        RuleAction::Shield => return ActionSection::Word(ActionWord::Shield),
        RuleAction::Tag(None) => return ActionSection::Word(ActionWord::Tag),
        RuleAction::Tag(Some(word)) => ActionTable { tag: Some(Word(word.clone())), ..none() },
        RuleAction::Deny(text) => ActionTable { deny: of(text), ..none() },
        RuleAction::Close(text) => ActionTable { close: of(text), ..none() },
        RuleAction::Reply(whole) => match reply(whole) {
            (texts, true) => ActionTable { reply: lines(&texts), ..none() },
            (texts, false) => ActionTable { reply: texts.into_iter().next().map(|text| OneOrMany::One(Line(text))), ..none() },
        },
        RuleAction::Rewrite(with) => ActionTable { rewrite: Some(Line(with.clone())), ..none() },
        RuleAction::RewriteReply { matching, with } => {
            ActionTable { rewrite_reply: Some(Line(with.clone())), matching: Some(OctetPattern(matching.clone())), ..none() }
        }
        RuleAction::RewriteGreeting { matching, with } => {
            ActionTable { rewrite_greeting: Some(Line(with.clone())), matching: Some(OctetPattern(matching.clone())), ..none() }
        }
        RuleAction::RemoveCapability(tags) => {
            ActionTable { remove_capability: many(tags.iter().cloned().map(Word).collect()), ..none() }
        }
        RuleAction::AddCapability(added) => ActionTable { add_capability: lines(added), ..none() },
    };
    ActionSection::Table(Box::new(table))
}
