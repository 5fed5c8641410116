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
        let candidate = Candidate { number, remainder, has_spoken: false, is_over: false, is_replaced: false, commands: None };
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
    fn end(&mut self, filter: &Filter) -> Commands {
        let mut commands = self.commands.take().map(|commands| *commands).unwrap_or_default();
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
        let may_hold = if event.multi_line { filter.may_hold_for_reply(&exchange) } else { filter.holds_for(Some(&exchange)) };
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

#[cfg(test)]
mod tests {
    use super::super::{
        search::each_match,
        testing::{Shelf, line, opened, summary},
    };
    use super::*;

    /// Numbers that look random and are the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % end
        }
    }

    #[derive(Default)]
    struct Story {
        id: String,
        user: &'static str,
        said: Vec<Said>,
        /// Its events, the last first.
        events: Vec<String>,
    }

    fn story(number: usize, dice: &mut Dice) -> Story {
        let id = format!("s{number:011}");
        let mut story = Story { user: ["anna", "bob", "carol"][dice.below(3)], events: vec![opened(&id, 1)], ..Story::default() };
        let (mut waiting, mut answers) = (Vec::new(), Vec::new());
        for n in 1..=dice.below(7) as u64 {
            let verb = ["RETR", "LIST", "NOOP"][dice.below(3)];
            let text = [format!("{verb} {n}"), format!("{verb} \\\"x\\\""), verb.to_owned()][dice.below(3)].clone();
            story.events.push(line(
                &id,
                n,
                &format!("\"event\":\"command\",\"n\":{n},\"keyword\":\"{verb}\",\"text\":\"{text}\""),
            ));
            let said =
                Said { n, at_us: n * 1000, verb: verb.into(), line: Some(text.replace('\\', "").into()), ..Said::default() };
            story.said.push(said);
            waiting.push(n);
            if dice.below(3) > 0 {
                answers.append(&mut waiting);
            }
            for n in answers.drain(..) {
                if dice.below(8) > 0 {
                    answer(&id, &mut story, n, dice);
                }
            }
        }
        let closed = line(&id, 900, r#""event":"closed","by":"client","reason":"quit""#);
        story.events.push(closed);
        story.events.reverse();
        Story { id, ..story }
    }

    fn answer(id: &str, story: &mut Story, n: u64, dice: &mut Dice) {
        let (status, latency, size) = (["+OK", "-ERR"][dice.below(2)], dice.below(9) as u64 * 1_000_000, dice.below(2));
        let more = if size == 1 { ",\"multi_line\":true" } else { "" };
        let reply = format!(
            "\"event\":\"reply\",\"n\":{n},\"status\":\"{status}\",\"text\":\"{status} x\",\"latency_us\":{latency}{more}"
        );
        story.events.push(line(id, n, &reply));
        let said = &mut story.said[usize::try_from(n).unwrap() - 1];
        (said.status, said.reply, said.latency_us) = (status.into(), Some(format!("{status} x").into()), Some(latency));
        if size == 1 {
            said.size = Some(latency / 1000);
            story.events.push(line(id, n, &format!("\"event\":\"content\",\"n\":{n},\"size\":{}", latency / 1000)));
        }
    }

    /// A store, and its stories in the order of their summaries.
    fn store(dice: &mut Dice) -> (Shelf, Vec<Story>) {
        let count = dice.below(40);
        let mut to_come: Vec<Story> = (0..count).map(|number| story(number, dice)).collect();
        let (mut running, mut over) = (Vec::<Story>::new(), Vec::new());
        let mut events = [String::new(), String::new()];
        let mut written = 0;
        while !(to_come.is_empty() && running.is_empty()) {
            if running.is_empty() || running.len() < 6 && !to_come.is_empty() && dice.below(3) == 0 {
                running.push(to_come.pop().unwrap_or_default());
            }
            let at = dice.below(running.len());
            // One stays open for long now and then.
            let at = if at == 0 && dice.below(4) > 0 { running.len() - 1 } else { at };
            events[usize::from(written > 150)] += &running[at].events.pop().unwrap_or_default();
            written += 1;
            if running[at].events.is_empty() {
                over.push(running.remove(at));
            }
        }
        if over.len() > 2 && dice.below(3) == 0 {
            let at = dice.below(over.len() - 1);
            over.swap(at, at + 1);
        }
        let summaries: String = over.iter().map(|story| summary(&story.id, 1, story.user, "complete")).collect();
        let [first, second] = events;
        let shelf = Shelf::new()
            .with("events-20261123T063000Z-100-1.jsonl", first)
            .with("events-20261123T063000Z-100-2.jsonl.zst", zstd::encode_all(second.as_bytes(), 1).unwrap())
            .with("sessions-20261123T063000Z-100-3.jsonl", summaries);
        (shelf, over)
    }

    /// What comes of batches, of skipping and of making room is what comes of asking one session after the other.
    #[test]
    fn what_is_found_is_what_each_session_would_say() {
        let expressions = [
            "verb = RETR and latency > 5s",
            "status = -ERR",
            "not verb = NOOP",
            "n > 0",
            "size > 2kB or user = bob and status = none",
            "user = anna and line ~ 'x' and not size",
            "not (status or user = carol)",
            "not verb",
            "(user = anna or verb = LIST) and (user = bob or latency < 3s) and not (user = carol and reply ~ ERR)",
        ];
        for seed in 0..60 {
            let (shelf, stories) = store(&mut Dice(seed));
            for expression in expressions {
                let filter = Filter::parse(expression).unwrap();
                let mut expected = Vec::new();
                for story in &stories {
                    let line = summary(&story.id, 1, story.user, "complete");
                    let facts = serde_json::from_str(&line).unwrap();
                    let hits: Vec<_> =
                        story.said.iter().filter(|said| filter.holds(&facts, Some(&said.exchange()))).cloned().collect();
                    if !hits.is_empty() || story.said.is_empty() && filter.holds(&facts, None) {
                        expected.push((line.trim().to_owned(), hits));
                    }
                }
                let mut found = Vec::new();
                let mut store = Store::new(shelf.path());
                each_match(&mut store, &filter, None, &mut |matched| {
                    // In the order in which they are decided, which is not always that of their numbers.
                    let mut hits = matched.hits.to_vec();
                    hits.sort_by_key(|said| said.n);
                    found.push((String::from_utf8(matched.line.to_vec()).unwrap(), hits));
                    Ok(())
                })
                .unwrap();
                assert_eq!(found, expected, "seed {seed}: {expression}");
            }
        }
    }
}
