//! The differences, as a reader of unified diffs expects them, or as one JSON object.

use std::io::Write;

use serde::Serialize;

use super::{
    super::{
        InspectError, human,
        paint::{Line, Look},
        view::write_json,
    },
    align::{Found, Pair, Row, Slower},
    steps::Side,
};

/// Equal lines that are shown around those that differ.
const CONTEXT: usize = 3;

/// Latencies that are told of.
const LATENCIES: usize = 20;

/// One line of the whole comparison.
struct Printed<'a> {
    pair: usize,
    row: Row,
    text: &'a str,
}

/// Writes hunks of lines, what was slower, and a summary.
pub(super) fn text(sides: &[Side; 2], found: &Found, colour: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut lines: Vec<Line> = Vec::new();
    if !found.is_same() {
        for (mark, side) in ["---", "+++"].into_iter().zip(sides) {
            lines.push(Line::new(Look::Strong, &format!("{mark} {}  {}", side.id, human::time(&side.start))));
        }
    }
    let printed = printed(sides, found);
    for hunk in hunks(&printed) {
        lines.push(Line::new(Look::Client, &heading(sides, found, &printed[hunk.clone()])));
        lines.extend(printed[hunk].iter().map(line));
    }
    lines.extend(found.slower.iter().take(LATENCIES).map(|slower| latency(sides, found, slower)));
    if let Some(more @ 1..) = found.slower.len().checked_sub(LATENCIES) {
        lines.push(Line::new(Look::Dim, &format!("~ … and {more} more")));
    }
    lines.push(Line::new(Look::Strong, &format!("== {}", summary(sides, found))));
    Ok(lines.iter().try_for_each(|line| line.write(out, colour))?)
}

/// Writes one JSON object, all on a line.
pub(super) fn json(sides: &[Side; 2], found: &Found, out: &mut dyn Write) -> Result<(), InspectError> {
    let differing = found.pairs.iter().filter(|pair| pair.differs());
    let report = Report {
        same: found.is_same(),
        summary: summary(sides, found),
        sessions: [&sides[0].id, &sides[1].id],
        differences: differing.map(|pair| difference(sides, pair)).collect(),
        slower: found.slower.iter().map(|slower| timing(sides, found, slower)).collect(),
    };
    write_json(&serde_json::to_vec(&report).map_err(std::io::Error::from)?, out)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    same: bool,
    summary: String,
    sessions: [&'a str; 2],
    differences: Vec<Difference<'a>>,
    slower: Vec<Latency<'a>>,
}

/// A step that differs: the numbers of its command in both sessions, and lines that only one has.
#[derive(Serialize)]
struct Difference<'a> {
    step: &'a str,
    n: [Option<u64>; 2],
    removed: Vec<&'a str>,
    added: Vec<&'a str>,
}

#[derive(Serialize)]
struct Latency<'a> {
    step: &'a str,
    n: [Option<u64>; 2],
    what: &'static str,
    took_us: [u64; 2],
}

fn difference<'a>(sides: &'a [Side; 2], pair: &Pair) -> Difference<'a> {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for &row in &pair.rows {
        match row {
            Row::Same(_) => {}
            Row::Removed(_) => removed.push(text_of(sides, pair, row)),
            Row::Added(_) => added.push(text_of(sides, pair, row)),
        }
    }
    Difference { step: name(sides, pair), n: numbers(sides, pair), removed, added }
}

fn timing<'a>(sides: &'a [Side; 2], found: &Found, slower: &Slower) -> Latency<'a> {
    let pair = &found.pairs[slower.pair];
    Latency { step: name(sides, pair), n: numbers(sides, pair), what: slower.what, took_us: slower.took }
}

fn printed<'a>(sides: &'a [Side; 2], found: &Found) -> Vec<Printed<'a>> {
    let pairs = found.pairs.iter().enumerate();
    let rows =
        pairs.flat_map(|(pair, the)| the.rows.iter().map(move |&row| Printed { pair, row, text: text_of(sides, the, row) }));
    rows.collect()
}

fn text_of<'a>(sides: &'a [Side; 2], pair: &Pair, row: Row) -> &'a str {
    let (side, fact) = match row {
        Row::Same(fact) | Row::Removed(fact) => (0, fact),
        Row::Added(fact) => (1, fact),
    };
    pair.places[side].map_or("", |place| &sides[side].steps[place].facts[fact].text)
}

/// Ranges of lines that differ, with their surroundings.
fn hunks(printed: &[Printed<'_>]) -> Vec<std::ops::Range<usize>> {
    let mut hunks: Vec<std::ops::Range<usize>> = Vec::new();
    let differing = printed.iter().enumerate().filter(|(_, line)| !matches!(line.row, Row::Same(_)));
    for (place, _) in differing {
        let (start, end) = (place.saturating_sub(CONTEXT), (place + CONTEXT + 1).min(printed.len()));
        match hunks.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ => hunks.push(start..end),
        }
    }
    hunks
}

/// Names the first step that differs.
fn heading(sides: &[Side; 2], found: &Found, hunk: &[Printed<'_>]) -> String {
    let first = hunk.iter().find(|line| !matches!(line.row, Row::Same(_)));
    let Some(pair) = first.map(|line| &found.pairs[line.pair]) else { return String::new() };
    let name = name(sides, pair);
    match numbers(sides, pair) {
        [None, None] => format!("@@ {name} @@"),
        [Some(one), None] => format!("@@ -{one} @@ {name}"),
        [None, Some(other)] => format!("@@ +{other} @@ {name}"),
        [Some(one), Some(other)] => format!("@@ -{one} +{other} @@ {name}"),
    }
}

fn line(printed: &Printed<'_>) -> Line {
    let (mark, look) = match printed.row {
        Row::Same(_) => (" ", Look::Plain),
        Row::Removed(_) => ("-", Look::Gap),
        Row::Added(_) => ("+", Look::Server),
    };
    Line::new(look, mark).with(look, printed.text)
}

fn latency(sides: &[Side; 2], found: &Found, slower: &Slower) -> Line {
    let [one, other] = slower.took.map(human::duration);
    let name = name(sides, &found.pairs[slower.pair]);
    Line::new(Look::Own, &format!("~ {name}: {} after {one}, and after {other}", slower.what))
}

/// The command, or `opening`, or `end`.
fn name<'a>(sides: &'a [Side; 2], pair: &Pair) -> &'a str {
    let step = |side: usize| pair.places[side].map(|place| sides[side].steps[place].key.as_str());
    step(0).or_else(|| step(1)).unwrap_or_default()
}

fn numbers(sides: &[Side; 2], pair: &Pair) -> [Option<u64>; 2] {
    [0, 1].map(|side| pair.places[side].and_then(|place| sides[side].steps[place].n))
}

fn summary(sides: &[Side; 2], found: &Found) -> String {
    let is_command = |pair: &&Pair| numbers(sides, pair) != [None, None];
    let count = |wanted: fn(&Pair) -> bool| found.pairs.iter().filter(is_command).filter(|pair| wanted(pair)).count() as u64;
    let both = count(|pair| pair.places.iter().all(Option::is_some));
    let differing = count(|pair| pair.places.iter().all(Option::is_some) && pair.differs());
    let mut parts = vec![format!("{} in both", human::plural(both, "command"))];
    let mut part = |number: u64, text: String| parts.extend((number > 0).then_some(text));
    part(differing, format!("{differing} with differences"));
    for (number, side) in
        [(count(|pair| pair.places[1].is_none()), &sides[0]), (count(|pair| pair.places[0].is_none()), &sides[1])]
    {
        part(number, format!("{number} only in {}", side.id));
    }
    for pair in found.pairs.iter().filter(|pair| !is_command(pair) && pair.differs()) {
        part(1, format!("the {} differs", name(sides, pair)));
    }
    let slower = found.slower.len() as u64;
    let counted = if found.timing_counts { "" } else { " (not counted)" };
    part(slower, format!("{} otherwise{counted}", human::plural(slower, "latency").replace("latencys", "latencies")));
    let verdict = if found.is_same() { "no difference" } else { "different" };
    format!("{verdict}: {}", parts.join(", "))
}
