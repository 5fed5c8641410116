//! What is to be changed in replies that have not come yet, and what they tell of the messages' sizes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{maildrop::number_at_start, rules::Compiled, shield::Change};
use crate::{
    config::RuleAction,
    pop3::{Capability, Keyword, Ordinal, Status, Wants},
    tap::{Addition, Edit, Replied, Rule},
};

/// The replies that are awaited with a change, in the order of their commands.
#[derive(Default)]
pub(super) struct Replies {
    due: VecDeque<Due>,
    /// Message numbers of RETR and LIST that are outstanding, where sizes are learned from the replies alone.
    asked: VecDeque<(Ordinal, u64)>,
    /// Sizes that a reply has told.
    sizes: HashMap<u64, u64>,
    /// The listing line that is incomplete.
    listing: Vec<u8>,
}

struct Due {
    n: Ordinal,
    edits: ReplyEdits,
    change: Change,
    /// A status line in the server's place.
    text: Option<(Arc<[u8]>, Rule)>,
}

/// What rules make of the reply to one command.
#[derive(Clone, Default)]
pub(super) struct ReplyEdits {
    rules: Vec<Arc<Compiled>>,
    /// Capabilities that are still to be added.
    to_add: Vec<(String, Rule)>,
}

impl ReplyEdits {
    /// A rule on the server's side, whose conditions the command meets.
    pub(super) fn add(&mut self, rule: &Arc<Compiled>) {
        if let RuleAction::AddCapability(lines) = &rule.action {
            self.to_add.extend(lines.iter().rev().map(|line| (line.clone(), Rule::Named(rule.name.clone()))));
        }
        self.rules.push(Arc::clone(rule));
    }

    /// What has to be seen of the reply.
    pub(super) fn wants(&self, keyword: Keyword) -> Wants {
        let status = self.rules.iter().any(|rule| matches!(rule.action, RuleAction::RewriteReply { .. }));
        let body = keyword == Keyword::Capa
            && self
                .rules
                .iter()
                .any(|rule| matches!(rule.action, RuleAction::RemoveCapability(_) | RuleAction::AddCapability(_)));
        Wants { status, body, shape: None }
    }

    fn is_none(&self) -> bool {
        self.rules.is_empty()
    }

    fn status_line(&self, line: &[u8]) -> Edit {
        let mut text = line.to_vec();
        let mut by = None;
        for rule in self.rules.iter().filter(|rule| matches!(rule.action, RuleAction::RewriteReply { .. })) {
            if let Some(changed) = rewrite_text(rule, &text) {
                (text, by) = (changed, Some(Rule::Named(rule.name.clone())));
            }
        }
        by.map_or(Edit::Keep, |rule| Edit::Replace { text: text.into(), rule })
    }

    fn capability(&self, line: &[u8]) -> Edit {
        let capability = Capability::parse(line);
        let removes = |rule: &&Arc<Compiled>| match &rule.action {
            RuleAction::RemoveCapability(tags) => tags.iter().any(|tag| capability.is(tag)),
            _ => false,
        };
        let rule = self.rules.iter().find(removes);
        rule.map_or(Edit::Keep, |rule| Edit::Remove { rule: Rule::Named(rule.name.clone()) })
    }
}

impl Replies {
    /// Command `n` goes to the server.
    pub(super) fn expect(&mut self, n: Ordinal, edits: ReplyEdits, change: Change) {
        if !edits.is_none() || change != Change::Nothing {
            self.due.push_back(Due { n, edits, change, text: None });
        }
    }

    /// The status line of `n`, an AUTH, is to be this, as long as the server refuses it.
    pub(super) fn replace(&mut self, n: Ordinal, text: Arc<[u8]>, rule: Rule) {
        let text = Some((text, rule));
        match self.of(n) {
            Some(due) => due.text = text,
            None => self.due.push_back(Due { n, edits: ReplyEdits::default(), change: Change::Nothing, text }),
        }
    }

    /// The status line that was to stand in the server's place.
    pub(super) fn take_text(&mut self, n: Ordinal) -> Option<Arc<[u8]>> {
        self.of(n)?.text.take().map(|(text, _)| text)
    }

    /// What the shield changes in the reply to `n`.
    pub(super) fn change(&mut self, n: Ordinal) -> Change {
        self.of(n).map_or(Change::Nothing, |due| due.change)
    }

    /// What the rules make of a status line, as the shield left it.
    pub(super) fn status_line(&mut self, n: Ordinal, line: &[u8]) -> Edit {
        let Some(due) = self.of(n) else { return Edit::Keep };
        match &due.text {
            Some((text, rule)) if Status::of(line) == Some(Status::Err) => {
                Edit::Replace { text: text.clone(), rule: rule.clone() }
            }
            _ => due.edits.status_line(line),
        }
    }

    /// What the rules make of a line of CAPA.
    pub(super) fn capability(&mut self, n: Ordinal, line: &[u8]) -> Edit {
        self.of(n).map_or(Edit::Keep, |due| due.edits.capability(line))
    }

    /// A capability that is still to be added.
    pub(super) fn addition(&mut self, n: Ordinal) -> Option<Addition> {
        let (line, rule) = self.of(n)?.edits.to_add.pop()?;
        Some(Addition { text: format!("{line}\r\n").into_bytes().into(), rule })
    }

    /// What is due for command `n`; what was due before it has passed.
    fn of(&mut self, n: Ordinal) -> Option<&mut Due> {
        while self.due.front().is_some_and(|due| due.n < n) {
            self.due.pop_front();
        }
        self.due.iter_mut().find(|due| due.n == n)
    }

    // ── sizes, where nothing is asked for them ──

    /// Command `n` names a message.
    pub(super) fn asked(&mut self, n: Ordinal, message: Option<u64>) {
        if let Some(number) = message.filter(|_| self.asked.len() < MOST_ASKED) {
            self.asked.push_back((n, number));
        }
    }

    /// A size that a reply has told.
    pub(super) fn size(&self, number: u64) -> Option<u64> {
        self.sizes.get(&number).copied()
    }

    /// `+OK 120 octets` answers RETR, `+OK 2 200` LIST (RFC 1939 §5).
    pub(super) fn seen(&mut self, reply: Replied<'_>) {
        while self.asked.front().is_some_and(|(n, _)| *n < reply.n) {
            self.asked.pop_front();
        }
        let Some((_, message)) = self.asked.front().copied().filter(|(n, _)| *n == reply.n) else { return };
        let text = reply.line.get(3..).unwrap_or_default();
        let size = match (reply.keyword, reply.status) {
            (Keyword::Retr, Some(Status::Ok)) => number_at_start(text),
            (Keyword::List, Some(Status::Ok)) => number_at_start(text).and_then(|(_, rest)| number_at_start(rest)),
            _ => None,
        };
        if let Some((size, _)) = size {
            self.learn(message, size);
        }
    }

    /// A piece of a listing of sizes.
    pub(super) fn listed(&mut self, octets: &[u8]) {
        for piece in octets.split_inclusive(|&octet| octet == b'\n') {
            let room = LONGEST_LISTED.saturating_sub(self.listing.len());
            self.listing.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.listing);
                if let Some((number, rest)) = number_at_start(&line)
                    && let Some((size, _)) = number_at_start(rest)
                {
                    self.learn(number, size);
                }
            }
        }
    }

    fn learn(&mut self, number: u64, size: u64) {
        if self.sizes.len() < MOST_SIZES {
            self.sizes.insert(number, size);
        }
    }
}

/// Commands that are remembered until their reply tells a size, at most.
const MOST_ASKED: usize = 10_000;
/// Sizes that are remembered, at most.
const MOST_SIZES: usize = 100_000;
/// Octets of a line of LIST that tell something.
const LONGEST_LISTED: usize = 64;
/// A status line's limit (RFC 2449 §4), without its line end.
const LONGEST_STATUS: usize = 510;

/// What a rule makes of the text of a status line; its status stays. `None` where nothing changes, or it would become more
/// than one line.
pub(super) fn rewrite_text(rule: &Compiled, line: &[u8]) -> Option<Vec<u8>> {
    let end = line.len() - line.trim_ascii_end().len();
    let (content, end) = line.split_at(line.len() - end);
    let status = content.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(content.len());
    let (status, rest) = content.split_at(status);
    let changed = rule.rewrite_text(rest.trim_ascii_start())?;
    let is_line = !changed.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n'));
    let blank: &[u8] = if changed.is_empty() { b"" } else { b" " };
    let text = [status, blank, &changed].concat();
    (is_line && text.len() <= LONGEST_STATUS).then(|| [&text, end].concat())
}
