//! Sessions for which their commands decide: their events are read once more, and each is told as soon as it is decided.
//!
//! Of a candidate a few numbers are held until then, and where its commands may match, these. Sessions end in the order of their
//! summaries, or nearly so: what was found in one is told and forgotten when its end is read, where all before it are told. Where
//! one comes late and what waits behind it takes too much room, the later half is forgotten, and read for once more afterwards.

use std::collections::{HashMap, VecDeque};

use super::{
    InspectError,
    filter::{Exchange, Facts, Filter, Said},
    lines::Lines,
    scan::{Event, Outline},
    search::{Match, Visit},
    store::{Segment, Store, Stream},
};
use crate::record::schema::VERSION;

/// Candidates of one reading, of some 100 octets each.
const CANDIDATES: usize = if cfg!(test) { 8 } else { 128 * 1024 };

/// Different expressions that are left to be asked of them.
const REMAINDERS: usize = if cfg!(test) { 4 } else { 1024 };

/// Octets of commands that wait, for their reply or for their session to be told.
const ROOM: usize = if cfg!(test) { 2048 } else { 16 * 1024 * 1024 };

/// Commands of one session that are kept; more are counted.
const HITS: usize = 1000;

/// Commands of one session that may await their reply; an older one is taken for unanswered.
const OUTSTANDING: usize = 20_000;

/// Where the lines of candidates stand, which are not held meanwhile. They are asked for in order.
pub(super) enum Pages<'a> {
    /// In a segment, which is opened once more.
    Segment { segment: &'a Segment, lines: Option<Lines> },
    /// They are held anyway.
    Lines(&'a [&'a [u8]]),
}

impl Pages<'_> {
    fn open(&mut self, store: &mut Store<'_>) {
        if let Self::Segment { segment, lines } = self
            && lines.is_none()
        {
            *lines = store.open_again(segment);
        }
    }

    fn has_summaries(&self) -> bool {
        matches!(self, Self::Segment { .. })
    }

    /// The process that wrote them all, where that is known.
    fn process(&self) -> Option<u64> {
        match self {
            Self::Segment { segment, .. } => segment.process(),
            Self::Lines(_) => None,
        }
    }

    /// `None` where it has been removed since.
    fn line(&mut self, number: u64) -> Option<&[u8]> {
        match self {
            Self::Segment { lines, .. } => {
                let lines = lines.as_mut()?;
                while lines.number() < number {
                    if !lines.advance() {
                        return None;
                    }
                }
                (lines.number() == number).then(|| lines.line())
            }
            Self::Lines(lines) => lines.get(usize::try_from(number).ok()?.checked_sub(1)?).copied(),
        }
    }
}

/// Candidates that are decided together, in the order of their lines.
pub(super) struct Batch<'a> {
    filter: &'a Filter,
    since: Option<&'a str>,
    candidates: Vec<Candidate>,
    by_session: HashMap<Box<str>, usize>,
    remainders: Vec<Filter>,
    by_answers: HashMap<Vec<bool>, usize>,
    /// When the first of them was opened, and the last line of them was recorded.
    first: String,
    last: String,
    /// Those before it are told.
    next: usize,
    /// Those from it on are left for another reading.
    limit: usize,
    /// What their commands take.
    octets: usize,
}

struct Candidate {
    number: u64,
    /// What is left to be asked: its place in `Batch::remainders`.
    remainder: usize,
    /// Whether it had any command at all.
    has_spoken: bool,
    /// Whether its end was read, or another line told of the same session.
    is_over: bool,
    is_replaced: bool,
    /// None where no command waits.
    commands: Option<Box<Commands>>,
}

#[derive(Default)]
struct Commands {
    outstanding: VecDeque<Said>,
    hits: Vec<Said>,
    more: u64,
    octets: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(filter: &'a Filter, since: Option<&'a str>) -> Self {
        Self {
            filter,
            since,
            candidates: Vec::new(),
            by_session: HashMap::new(),
            remainders: Vec::new(),
            by_answers: HashMap::new(),
            first: String::new(),
            last: String::new(),
            next: 0,
            limit: 0,
            octets: 0,
        }
    }

    /// Whether it is to be decided before more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.candidates.len() >= CANDIDATES || self.remainders.len() >= REMAINDERS
    }

    /// A session by its summary or opening: visited at once where no command decides.
    pub(super) fn take(
        &mut self,
        number: u64,
        line: &[u8],
        facts: &Facts<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), InspectError> {
        if self.since.is_some_and(|since| facts.start() < since) || self.filter.settled(facts) == Some(false) {
            return Ok(());
        }
        if !self.filter.is_about_exchanges() {
            return visit(&Match { line, hits: &[], more: 0 });
        }
        if self.candidates.is_empty() || *self.first > *facts.start() {
            facts.start().clone_into(&mut self.first);
        }
        // The record of a summary is made when the session ends.
        if *self.last < *facts.recorded() {
            facts.recorded().clone_into(&mut self.last);
        }
        let remainder = self.remainder(facts);
        let index = self.candidates.len();
        if let Some(before) = self.by_session.insert(facts.session.as_ref().into(), index) {
            self.candidates[before].is_replaced = true;
        }
        let candidate =
            Candidate { number, remainder, has_spoken: false, is_over: false, is_replaced: false, commands: None };
        self.candidates.push(candidate);
        Ok(())
    }

    fn remainder(&mut self, facts: &Facts<'_>) -> usize {
        let answers = self.filter.answers(facts);
        if let Some(remainder) = self.by_answers.get(&answers) {
            return *remainder;
        }
        self.remainders.push(self.filter.given(facts));
        self.by_answers.insert(answers, self.remainders.len() - 1);
        self.remainders.len() - 1
    }

    /// Reads the commands of all, and visits those that match.
    pub(super) fn decide(
        mut self,
        store: &mut Store<'_>,
        pages: &mut Pages<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), InspectError> {
        if self.candidates.is_empty() {
            return Ok(());
        }
        pages.open(store);
        let until = pages.has_summaries().then(|| self.last.clone());
        while self.next < self.candidates.len() {
            self.limit = self.candidates.len();
            let mut segments = store.segments_since(Stream::Events, Some(&self.first))?;
            segments.retain(|segment| may_hold(segment, pages.process(), until.as_deref()));
            store.expect(segments.len());
            for segment in segments {
                let Some(mut lines) = store.open(&segment) else { continue };
                let result = self.read(&mut lines, pages, visit);
                lines.finish(&mut store.reports);
                result?;
            }
            self.tell(true, pages, visit)?;
            self.candidates[self.limit..].iter_mut().for_each(Candidate::forget);
        }
        Ok(())
    }

    fn read(&mut self, lines: &mut Lines, pages: &mut Pages<'_>, visit: &mut Visit<'_>) -> Result<(), InspectError> {
        let outline = Outline::new();
        while self.next < self.limit && lines.advance() {
            let line = lines.line();
            let Some((kind, session)) = outline.of(line) else { continue };
            if !matches!(kind, b"command" | b"reply" | b"content" | b"closed") {
                continue;
            }
            let Some(&index) = self.by_session.get(session) else { continue };
            if index < self.next || index >= self.limit || !self.candidates[index].cares(kind) {
                continue;
            }
            if kind == b"closed" {
                self.candidates[index].is_over = pages.has_summaries();
                self.tell(false, pages, visit)?;
                continue;
            }
            match Event::read(line) {
                Ok(event) if event.v == VERSION => self.heard(index, kind, &event),
                _ => drop(lines.record()),
            }
        }
        Ok(())
    }

    fn heard(&mut self, index: usize, kind: &[u8], event: &Event<'_>) {
        let candidate = &mut self.candidates[index];
        let before = candidate.octets();
        candidate.take(kind, event, &self.remainders[candidate.remainder]);
        self.octets = self.octets + candidate.octets() - before;
        if self.octets > ROOM {
            self.make_room();
        }
    }

    /// Forgets what waits of the later half of those that hold anything. Of one alone that is limited anyway.
    fn make_room(&mut self) {
        let holds = |index: &usize| self.candidates[*index].commands.is_some();
        let holders = (self.next..self.limit).filter(holds).collect::<Vec<_>>();
        if holders.len() > 1 {
            self.limit = holders[holders.len() / 2];
            let forgotten = &mut self.candidates[self.limit..];
            self.octets -= forgotten.iter().map(Candidate::octets).sum::<usize>();
            forgotten.iter_mut().for_each(Candidate::forget);
        }
    }

    /// Visits those that match, in order, up to one whose end was not read; `is_end` says that there are no more events.
    fn tell(&mut self, is_end: bool, pages: &mut Pages<'_>, visit: &mut Visit<'_>) -> Result<(), InspectError> {
        while self.next < self.limit {
            let candidate = &mut self.candidates[self.next];
            if !(is_end || candidate.is_over || candidate.is_replaced) {
                break;
            }
            self.next += 1;
            self.octets -= candidate.octets();
            let (found, filter) = (candidate.end(&self.remainders[candidate.remainder]), &self.remainders[candidate.remainder]);
            let matches = !found.hits.is_empty() || filter.holds_for(None) && !candidate.has_spoken;
            if !candidate.is_replaced
                && matches
                && let Some(line) = pages.line(candidate.number)
            {
                visit(&Match { line, hits: &found.hits, more: found.more })?;
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

impl Candidate {
    fn forget(&mut self) {
        (self.has_spoken, self.is_over, self.commands) = (false, false, None);
    }

    fn octets(&self) -> usize {
        self.commands.as_ref().map_or(0, |commands| commands.octets)
    }

    /// Whether an event of this kind can say anything new.
    fn cares(&self, kind: &[u8]) -> bool {
        let awaits = || self.commands.as_ref().is_some_and(|commands| !commands.outstanding.is_empty());
        !self.is_over && (matches!(kind, b"command" | b"closed") || awaits())
    }

    fn take(&mut self, kind: &[u8], event: &Event<'_>, filter: &Filter) {
        match (kind, &mut self.commands) {
            (b"command", _) if !event.own => self.command(event, filter),
            (b"reply", Some(commands)) => commands.reply(event, filter),
            (b"content", Some(commands)) => commands.content(event, filter),
            _ => {}
        }
        if self.commands.as_ref().is_some_and(|commands| commands.octets == 0 && commands.more == 0) {
            self.commands = None;
        }
    }

    fn command(&mut self, event: &Event<'_>, filter: &Filter) {
        self.has_spoken = true;
        let (verb, line) = (&*event.keyword, event.text.as_deref());
        if !filter.may_hold_for_command(&Exchange { n: event.n, verb, line, ..Exchange::default() }) {
            return;
        }
        let said = Said { n: event.n, at_us: event.at_us, verb: verb.into(), line: line.map(Into::into), ..Said::default() };
        self.commands.get_or_insert_default().wait(said, filter);
    }

    /// What was found. What was never answered is asked about, too.
    fn end(&mut self, filter: &Filter) -> Box<Commands> {
        let mut commands = self.commands.take().unwrap_or_default();
        for said in std::mem::take(&mut commands.outstanding) {
            commands.judge(said, filter);
        }
        commands
    }
}

impl Commands {
    fn wait(&mut self, said: Said, filter: &Filter) {
        self.octets += said.octets();
        self.outstanding.push_back(said);
        if self.outstanding.len() > OUTSTANDING
            && let Some(unanswered) = self.outstanding.pop_front()
        {
            self.octets -= unanswered.octets();
            self.judge(unanswered, filter);
        }
    }

    fn reply(&mut self, event: &Event<'_>, filter: &Filter) {
        let Some(at) = self.outstanding.iter().position(|said| said.n == event.n) else { return };
        let said = &self.outstanding[at];
        let (status, reply) = (event.status.as_deref().unwrap_or_default(), event.text.as_deref());
        let exchange = Exchange { status, reply, latency_us: event.latency_us, ..said.exchange() };
        let may_hold =
            if event.multi_line { filter.may_hold_for_reply(&exchange) } else { filter.holds_for(Some(&exchange)) };
        let Some(said) = self.remove(at).filter(|_| may_hold) else { return };
        let said = Said { status: status.into(), reply: reply.map(Into::into), latency_us: event.latency_us, ..said };
        if event.multi_line {
            self.octets += said.octets();
            self.outstanding.insert(at, said);
        } else {
            self.judge(said, filter);
        }
    }

    fn content(&mut self, event: &Event<'_>, filter: &Filter) {
        let Some(at) = self.outstanding.iter().position(|said| said.n == event.n) else { return };
        if let Some(said) = self.remove(at) {
            self.judge(Said { size: event.size, ..said }, filter);
        }
    }

    fn remove(&mut self, at: usize) -> Option<Said> {
        let said = self.outstanding.remove(at)?;
        self.octets -= said.octets();
        Some(said)
    }

    fn judge(&mut self, said: Said, filter: &Filter) {
        if !filter.holds_for(Some(&said.exchange())) {
            return;
        }
        if self.hits.len() < HITS {
            self.octets += said.octets();
            self.hits.push(said);
        } else {
            self.more += 1;
        }
    }
}
