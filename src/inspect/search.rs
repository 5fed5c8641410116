//! Which sessions of a store a filter means, and which of their commands: in one pass over the summaries, and over as much of
//! the events as it takes.
//!
//! Memory does not grow with the store: it holds what has no summary (running and lost sessions), and, where commands are asked
//! about, the candidates of one segment of summaries at a time.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
};

use memchr::memmem;
use serde::Deserialize;

use super::{
    InspectError,
    filter::{Exchange, Facts, Filter},
    lines::Lines,
    store::{Segment, Store, Stream},
};
use crate::record::schema::VERSION;

/// A session that matches.
pub(super) struct Match<'a> {
    /// The line of its summary, or of its opening.
    pub(super) line: &'a [u8],
    /// Commands for which the expression holds; none where it asks about sessions alone.
    pub(super) hits: &'a [Hit],
    /// How many more there are.
    pub(super) more: u64,
}

/// A command with its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) n: u64,
    /// Microseconds from the opening to the command.
    pub(super) at_us: u64,
    pub(super) verb: String,
    /// As it is recorded; `None` where it is withheld.
    pub(super) line: Option<String>,
    /// Empty where there is no reply.
    pub(super) status: String,
    pub(super) reply: Option<String>,
    pub(super) latency_us: Option<u64>,
    pub(super) size: Option<u64>,
}

/// Commands of one session that are kept; more are counted.
const HITS: usize = 1000;

/// Commands of one session that may await their reply; an older one is taken for unanswered.
const OUTSTANDING: usize = 20_000;

/// What is done with a session that matches.
pub(super) type Visit<'a> = dyn FnMut(&Match<'_>) -> Result<(), InspectError> + 'a;

/// Visits each session that matches and began at `since` or later: in the order of the store, those without a summary last.
/// Says how many sessions there are in all.
pub(super) fn each_match(
    store: &mut Store<'_>,
    filter: &Filter,
    since: Option<&str>,
    visit: &mut Visit<'_>,
) -> Result<u64, InspectError> {
    let mut running = without_end(store, since)?;
    let mut all = 0;
    for segment in store.segments_since(Stream::Sessions, since)? {
        let Some(mut lines) = store.open(&segment) else { continue };
        let mut candidates = Candidates::new(filter, since);
        let result = each_of(&mut lines, &["session"], &mut |line, facts| {
            all += 1;
            running.remove(&*facts.session);
            candidates.take(line, facts, true, visit)
        });
        lines.finish(&mut store.reports);
        result.and_then(|()| candidates.decide(store, segment.process(), visit))?;
    }
    let mut candidates = Candidates::new(filter, since);
    all += running.len() as u64;
    for line in running.values() {
        if let Ok(facts) = serde_json::from_slice(line) {
            candidates.take(line, &facts, false, visit)?;
        }
    }
    candidates.decide(store, None, visit)?;
    Ok(all)
}

/// The openings of sessions whose end is not recorded. Some of them have a summary all the same, when events were lost.
fn without_end(store: &mut Store<'_>, since: Option<&str>) -> Result<HashMap<Box<str>, Box<[u8]>>, InspectError> {
    let mut open = HashMap::new();
    for segment in store.segments_since(Stream::Events, since)? {
        let Some(mut lines) = store.open(&segment) else { continue };
        let result = each_of(&mut lines, &["opened", "closed"], &mut |line, facts| {
            if facts.event == "closed" {
                open.remove(&*facts.session);
            } else {
                open.insert(Box::from(&*facts.session), Box::from(line));
            }
            Ok(())
        });
        lines.finish(&mut store.reports);
        result?;
    }
    Ok(open)
}

type VisitLine<'a> = dyn FnMut(&[u8], &Facts<'_>) -> Result<(), InspectError> + 'a;

/// Visits the lines of some kinds. Most lines are of another: to see that is far cheaper than to parse them.
fn each_of(lines: &mut Lines, kinds: &[&str], visit: &mut VisitLine<'_>) -> Result<(), InspectError> {
    let outline = Outline::new();
    while lines.advance() {
        if outline.event(lines.line()).is_some_and(|kind| !kinds.iter().any(|wanted| wanted.as_bytes() == kind)) {
            continue;
        }
        match serde_json::from_slice::<Facts<'_>>(lines.line()) {
            Ok(facts) if facts.are_whole() && kinds.contains(&&*facts.event) => visit(lines.line(), &facts)?,
            Ok(facts) if facts.are_whole() => {}
            // That counts what is wrong with it.
            _ => drop(lines.head().is_some().then(|| lines.record())),
        }
    }
    Ok(())
}

/// Finds the values that tell whether a line is worth parsing. A line that is written otherwise than poptap writes it has none.
struct Outline {
    event: memmem::Finder<'static>,
    session: memmem::Finder<'static>,
}

impl Outline {
    fn new() -> Self {
        Self { event: memmem::Finder::new(b"\"event\":\""), session: memmem::Finder::new(b"\"session\":\"") }
    }

    fn event<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        value(&self.event, 9, line)
    }

    fn session<'a>(&self, line: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(value(&self.session, 11, line)?).ok()
    }
}

fn value<'a>(finder: &memmem::Finder<'_>, length: usize, line: &'a [u8]) -> Option<&'a [u8]> {
    let behind = &line[finder.find(line)? + length..];
    Some(&behind[..memchr::memchr(b'"', behind)?])
}

/// Sessions for which their commands decide.
struct Candidates<'a> {
    filter: &'a Filter,
    since: Option<&'a str>,
    waiting: HashMap<Box<str>, Candidate>,
    /// In the order in which they came.
    order: Vec<Box<str>>,
    first: String,
    last: String,
}

struct Candidate {
    line: Box<[u8]>,
    has_summary: bool,
    /// What is left to be asked.
    filter: Filter,
    outstanding: VecDeque<Hit>,
    hits: Vec<Hit>,
    more: u64,
    /// Whether it had any command at all.
    has_spoken: bool,
}

impl<'a> Candidates<'a> {
    fn new(filter: &'a Filter, since: Option<&'a str>) -> Self {
        let (waiting, order) = (HashMap::new(), Vec::new());
        Self { filter, since, waiting, order, first: String::new(), last: String::new() }
    }

    /// A session by its summary or opening: visited at once where no command decides.
    fn take(&mut self, line: &[u8], facts: &Facts<'_>, has_summary: bool, visit: &mut Visit<'_>) -> Result<(), InspectError> {
        if self.since.is_some_and(|since| facts.start() < since) || self.filter.settled(facts) == Some(false) {
            return Ok(());
        }
        if !self.filter.is_about_exchanges() {
            return visit(&Match { line, hits: &[], more: 0 });
        }
        if self.order.is_empty() || *self.first > *facts.start() {
            facts.start().clone_into(&mut self.first);
        }
        // The record of a summary is made when the session ends.
        self.last = std::mem::take(&mut self.last).max(facts.recorded().to_owned());
        let id: Box<str> = facts.session.as_ref().into();
        let candidate = Candidate {
            line: line.into(),
            has_summary,
            filter: self.filter.given(facts),
            outstanding: VecDeque::new(),
            hits: Vec::new(),
            more: 0,
            has_spoken: false,
        };
        self.order.push(id.clone());
        self.waiting.insert(id, candidate);
        Ok(())
    }

    /// Reads the commands of those that wait, and visits those that match.
    fn decide(mut self, store: &mut Store<'_>, process: Option<u64>, visit: &mut Visit<'_>) -> Result<(), InspectError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let until = self.order.iter().all(|id| self.waiting[id].has_summary).then_some(self.last.as_str());
        for segment in store.segments_since(Stream::Events, Some(&self.first))? {
            if !may_hold(&segment, process, until) {
                continue;
            }
            let Some(mut lines) = store.open(&segment) else { continue };
            read(&mut lines, &mut self.waiting);
            lines.finish(&mut store.reports);
        }
        let mut seen = HashSet::new();
        for id in &self.order {
            if let Some(candidate) = self.waiting.get_mut(id).filter(|_| seen.insert(id)) {
                candidate.end();
                if !candidate.hits.is_empty() || candidate.filter.holds_for(None) && !candidate.has_spoken {
                    let Candidate { line, hits, more, .. } = candidate;
                    visit(&Match { line, hits, more: *more })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a segment of events may hold some of a process' sessions, which ended at `until`.
fn may_hold(segment: &Segment, process: Option<u64>, until: Option<&str>) -> bool {
    let is_other = process.zip(segment.process()).is_some_and(|(one, other)| one != other);
    !is_other && until.is_none_or(|until| segment.may_begin_before(until))
}

/// What counts of an event.
#[derive(Deserialize)]
struct Said<'a> {
    v: u32,
    #[serde(default)]
    n: u64,
    at_us: u64,
    #[serde(borrow, default)]
    keyword: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    latency_us: Option<u64>,
    #[serde(default)]
    multi_line: bool,
    size: Option<u64>,
    #[serde(default)]
    own: bool,
}

fn read(lines: &mut Lines, waiting: &mut HashMap<Box<str>, Candidate>) {
    let outline = Outline::new();
    while lines.advance() {
        let line = lines.line();
        let (Some(kind), Some(session)) = (outline.event(line), outline.session(line)) else { continue };
        if !matches!(kind, b"command" | b"reply" | b"content") {
            continue;
        }
        let Some(candidate) = waiting.get_mut(session) else { continue };
        match serde_json::from_slice::<Said<'_>>(line) {
            Ok(said) if said.v == VERSION => candidate.take(kind, said),
            _ => drop(lines.record()),
        }
    }
}

impl Candidate {
    fn take(&mut self, kind: &[u8], said: Said<'_>) {
        match kind {
            b"command" if !said.own => {
                self.has_spoken = true;
                let (verb, line) = (said.keyword.into_owned(), said.text.map(Cow::into_owned));
                self.outstanding.push_back(Hit { n: said.n, at_us: said.at_us, verb, line, ..Hit::default() });
                if self.outstanding.len() > OUTSTANDING
                    && let Some(unanswered) = self.outstanding.pop_front()
                {
                    self.judge(unanswered);
                }
            }
            b"reply" => {
                let Some(hit) = self.outstanding.iter_mut().find(|hit| hit.n == said.n) else { return };
                hit.status = said.status.map(Cow::into_owned).unwrap_or_default();
                hit.reply = said.text.map(Cow::into_owned);
                hit.latency_us = said.latency_us;
                if !said.multi_line {
                    self.complete(said.n);
                }
            }
            b"content" => {
                if let Some(hit) = self.outstanding.iter_mut().find(|hit| hit.n == said.n) {
                    hit.size = said.size;
                    self.complete(said.n);
                }
            }
            _ => {}
        }
    }

    fn complete(&mut self, n: u64) {
        let Some(at) = self.outstanding.iter().position(|hit| hit.n == n) else { return };
        self.outstanding.remove(at).into_iter().for_each(|hit| self.judge(hit));
    }

    /// What was never answered is asked about, too.
    fn end(&mut self) {
        for hit in std::mem::take(&mut self.outstanding) {
            self.judge(hit);
        }
    }

    fn judge(&mut self, hit: Hit) {
        if !self.filter.holds_for(Some(&hit.exchange())) {
            return;
        }
        if self.hits.len() < HITS { self.hits.push(hit) } else { self.more += 1 }
    }
}

impl Hit {
    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            n: self.n,
            verb: &self.verb,
            line: self.line.as_deref(),
            status: &self.status,
            reply: self.reply.as_deref(),
            latency_us: self.latency_us,
            size: self.size,
        }
    }
}
