//! Which sessions of a store a filter means, and which of their commands: in one pass over the summaries, and over as much of
//! the events as it takes.
//!
//! Memory does not grow with the store: it holds what has no summary (running and lost sessions), and, where commands are asked
//! about, a limited number of candidates at a time, see `candidates`.

use std::collections::HashMap;

use super::{
    InspectError,
    candidates::{Batch, Pages},
    filter::{Facts, Filter, Said},
    lines::Lines,
    scan::{Outline, is_whole_landmark},
    store::{Store, Stream},
};
use crate::record::schema::VERSION;

/// A session that matches.
pub(super) struct Match<'a> {
    /// The line of its summary, or of its opening.
    pub(super) line: &'a [u8],
    /// Commands for which the expression holds; none where it asks about sessions alone.
    pub(super) hits: &'a [Said],
    /// How many more there are.
    pub(super) more: u64,
}

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
    let segments = store.segments_since(Stream::Sessions, since)?;
    store.expect(segments.len());
    let mut all = 0;
    for segment in segments {
        let Some(mut lines) = store.open(&segment) else { continue };
        let mut batch = Batch::new(filter, since);
        let mut pages = Pages::Segment { segment: &segment, lines: None };
        let result = each_of(&mut lines, &["session"], &mut |number, line, facts| {
            all += 1;
            running.remove(&*facts.session);
            if batch.is_full() {
                std::mem::replace(&mut batch, Batch::new(filter, since)).decide(store, &mut pages, visit)?;
            }
            batch.take(number, line, facts, visit)
        });
        lines.finish(&mut store.reports);
        result.and_then(|()| batch.decide(store, &mut pages, visit))?;
    }
    all += running.len() as u64;
    of_running(store, filter, since, &running, visit)?;
    Ok(all)
}

/// Visits those that have no summary.
fn of_running(
    store: &mut Store<'_>,
    filter: &Filter,
    since: Option<&str>,
    running: &HashMap<Box<str>, Box<[u8]>>,
    visit: &mut Visit<'_>,
) -> Result<(), InspectError> {
    let (lines, mut batch) = (running.values().map(|line| &**line).collect::<Vec<_>>(), Batch::new(filter, since));
    let mut pages = Pages::Lines(&lines);
    for (number, line) in (1..).zip(&lines) {
        let Ok(facts) = serde_json::from_slice(line) else { continue };
        if batch.is_full() {
            std::mem::replace(&mut batch, Batch::new(filter, since)).decide(store, &mut pages, visit)?;
        }
        batch.take(number, line, &facts, visit)?;
    }
    batch.decide(store, &mut pages, visit)
}

/// The openings of sessions whose end is not recorded. Some of them have a summary all the same, when events were lost.
fn without_end(store: &mut Store<'_>, since: Option<&str>) -> Result<HashMap<Box<str>, Box<[u8]>>, InspectError> {
    let mut open = HashMap::new();
    let segments = store.segments_since(Stream::Events, since)?;
    store.expect(segments.len());
    let outline = Outline::new();
    for segment in segments {
        let Some(mut lines) = store.open(&segment) else { continue };
        while lines.advance() {
            let line = lines.line();
            match outline.of(line) {
                Some((b"closed", session)) if is_whole_landmark(line, VERSION) => drop(open.remove(session)),
                Some((b"opened", session)) if is_whole_landmark(line, VERSION) => {
                    open.insert(Box::from(session), Box::from(line));
                }
                Some((kind, _)) if !matches!(kind, b"closed" | b"opened") => {}
                _ => unusual(&mut lines, &mut open),
            }
        }
        lines.finish(&mut store.reports);
    }
    Ok(open)
}

/// The same of a line that is not such as poptap writes; that counts what is wrong with it.
fn unusual(lines: &mut Lines, open: &mut HashMap<Box<str>, Box<[u8]>>) {
    match serde_json::from_slice::<Facts<'_>>(lines.line()) {
        Ok(facts) if facts.are_whole() && facts.event == "closed" => drop(open.remove(&*facts.session)),
        Ok(facts) if facts.are_whole() && facts.event == "opened" => {
            open.insert(Box::from(&*facts.session), Box::from(lines.line()));
        }
        Ok(facts) if facts.are_whole() => {}
        _ => drop(lines.head().is_some().then(|| lines.record())),
    }
}

type VisitLine<'a> = dyn FnMut(u64, &[u8], &Facts<'_>) -> Result<(), InspectError> + 'a;

/// Visits the lines of some kinds, each with its number. Most lines are of another: to see that is far cheaper than to parse them.
fn each_of(lines: &mut Lines, kinds: &[&str], visit: &mut VisitLine<'_>) -> Result<(), InspectError> {
    let outline = Outline::new();
    while lines.advance() {
        if outline.kind(lines.line()).is_some_and(|kind| !kinds.iter().any(|wanted| wanted.as_bytes() == kind)) {
            continue;
        }
        match serde_json::from_slice::<Facts<'_>>(lines.line()) {
            Ok(facts) if facts.are_whole() && kinds.contains(&&*facts.event) => visit(lines.number(), lines.line(), &facts)?,
            Ok(facts) if facts.are_whole() => {}
            // That counts what is wrong with it.
            _ => drop(lines.head().is_some().then(|| lines.record())),
        }
    }
    Ok(())
}
