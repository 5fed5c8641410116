//! A table of sessions, written as they come: in bounded memory, nearly in the order of their beginning.

use std::{cmp::Reverse, collections::BinaryHeap, io::Write};

use super::{
    InspectError, View, human,
    paint::{Line, Look, harmless},
    progress,
};
use crate::record::schema::{Body, Opened, Record, Summary};

/// Rows that are held back: a table of no more is in order, and its columns fit all of it. Beyond that, a session may stand
/// before one that began earlier if so many ended in between.
const HELD: usize = 2000;

/// The rows that were not written yet.
pub(super) struct Table<'a> {
    view: View,
    out: &'a mut dyn Write,
    /// Only the newest so many are wanted.
    limit: Option<usize>,
    held: BinaryHeap<Reverse<Row>>,
    layout: Option<Layout>,
}

struct Layout {
    /// Characters of an id that are shown.
    id: usize,
    widths: [usize; COLUMNS],
    kept: [bool; COLUMNS],
}

impl<'a> Table<'a> {
    pub(super) fn new(view: View, limit: Option<usize>, out: &'a mut dyn Write) -> Self {
        Self { view, out, limit, held: BinaryHeap::new(), layout: None }
    }

    /// Adds a session, by its summary or its opening.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), InspectError> {
        self.held.extend(Row::new(record).map(Reverse));
        match self.limit {
            Some(limit) if self.held.len() > limit => drop(self.held.pop()),
            None if self.held.len() > HELD => {
                self.lay_out(WHOLE_ID)?;
                self.write_first()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<(), InspectError> {
        if !self.held.is_empty() {
            let ids = self.held.iter().map(|row| row.0.id());
            let length = unique_length(ids.collect());
            self.lay_out(length)?;
        }
        while !self.held.is_empty() {
            self.write_first()?;
        }
        Ok(())
    }

    fn lay_out(&mut self, id: usize) -> Result<(), InspectError> {
        if self.layout.is_some() {
            return Ok(());
        }
        let mut widths = HEADINGS.map(|heading| heading.chars().count());
        for row in &self.held {
            for (width, cell) in widths.iter_mut().zip(shown(&row.0, id)) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let layout = Layout { id, widths, kept: fitting(&widths, self.view.width) };
        progress::hide();
        let headings = aligned(HEADINGS.map(str::to_owned), &layout);
        self.layout = Some(layout);
        Ok(Line::new(Look::Strong, &cut(&headings, self.view.width)).write(self.out, self.view.colour)?)
    }

    fn write_first(&mut self) -> Result<(), InspectError> {
        let (Some(layout), Some(Reverse(row))) = (&self.layout, self.held.pop()) else { return Ok(()) };
        progress::hide();
        let text = aligned(shown(&row, layout.id), layout);
        Ok(Line::new(Look::Plain, &cut(&text, self.view.width)).write(self.out, self.view.colour)?)
    }
}

/// Characters of an id where it is shown whole.
const WHOLE_ID: usize = 64;

/// How the table is headed. The columns stand in the order of a [`Row`]'s cells.
const HEADINGS: [&str; COLUMNS] =
    ["START (UTC)", "ID", "CLIENT", "USER", "UPSTREAM", "TLS", "COMMANDS", "MESSAGES", "OCTETS", "LASTED", "ENDED"];
const COLUMNS: usize = 11;

/// Numbers stand to the right of their columns.
const TO_THE_RIGHT: std::ops::Range<usize> = 6..10;

/// What a table that is too wide for the terminal leaves out, in this order, so that one can read how sessions ended:
/// the upstream, the client, TLS, commands, octets, and how long it lasted.
const EXPENDABLE: [usize; 6] = [4, 2, 5, 6, 8, 9];

/// So much of the last column is worth leaving out others for.
const VERDICT: usize = 32;

/// A line of the table: its cells, harmless, with tabs between them. In one piece, since a store can hold millions; the
/// start comes first, whole, so that sorting rows sorts sessions.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Row(Box<str>);

impl Row {
    fn new(record: &Record) -> Option<Self> {
        let cells = match &record.body {
            Body::Session(summary) => of_summary(&record.session, summary),
            Body::Opened(opened) => of_opened(record, opened),
            _ => return None,
        };
        Some(Self(cells.map(|cell| harmless(&cell).into_owned()).join("\t").into()))
    }

    fn cells(&self) -> impl Iterator<Item = &str> {
        self.0.split('\t')
    }

    fn id(&self) -> &str {
        self.cells().nth(1).unwrap_or_default()
    }
}

fn of_summary(id: &str, summary: &Summary) -> [String; COLUMNS] {
    let [client_tls, upstream_tls] =
        [&summary.client_tls, &summary.upstream_tls].map(|version| version.as_deref().unwrap_or("plain"));
    [
        summary.start.clone(),
        id.to_owned(),
        summary.client.clone(),
        summary.user.clone().unwrap_or_else(|| "-".to_owned()),
        summary.upstream.clone(),
        format!("{client_tls} → {upstream_tls}"),
        summary.commands.to_string(),
        summary.messages.to_string(),
        human::octets(summary.client_octets.saturating_add(summary.upstream_octets)),
        human::duration(summary.duration_us),
        summary.verdict.clone(),
    ]
}

fn of_opened(record: &Record, opened: &Opened) -> [String; COLUMNS] {
    let [start, id, client, upstream, ended] =
        [&record.time, &record.session, &opened.client, &opened.upstream, "running or lost"].map(str::to_owned);
    let [user, tls, commands, messages, octets, lasted] = std::array::from_fn(|_| "-".to_owned());
    [start, id, client, user, upstream, tls, commands, messages, octets, lasted, ended]
}

/// The cells as they are shown: the start without fractions, the id no longer than is needed to tell it from others.
fn shown(row: &Row, length: usize) -> [String; COLUMNS] {
    let mut cells = row.cells();
    std::array::from_fn(|column| match (column, cells.next().unwrap_or_default()) {
        (0, start) => human::time(start),
        (1, id) => id.chars().take(length).collect(),
        (_, cell) => cell.to_owned(),
    })
}

/// Which columns are shown in so much room.
fn fitting(widths: &[usize; COLUMNS], room: Option<usize>) -> [bool; COLUMNS] {
    let mut kept = [true; COLUMNS];
    let [others @ .., last] = widths;
    let mut needed = others.iter().map(|width| width + 2).sum::<usize>() + last.min(&VERDICT);
    for column in EXPENDABLE {
        if room.is_some_and(|room| needed > room) {
            kept[column] = false;
            needed -= widths[column] + 2;
        }
    }
    kept
}

/// Id first, then the other columns that are kept, two blanks between them.
fn aligned(mut cells: [String; COLUMNS], layout: &Layout) -> String {
    for (column, (cell, width)) in cells.iter_mut().zip(layout.widths).enumerate() {
        *cell = if TO_THE_RIGHT.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:width$}") };
    }
    cells.swap(0, 1);
    let cells = cells.into_iter().zip(layout.kept).filter_map(|(cell, kept)| kept.then_some(cell));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn cut(text: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if text.chars().count() > width => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

/// How many characters of their ids tell the sessions apart: at least 6.
fn unique_length(mut ids: Vec<&str>) -> usize {
    ids.sort_unstable();
    let common = |pair: &[&str]| pair[0].chars().zip(pair[1].chars()).take_while(|(one, other)| one == other).count();
    ids.windows(2).map(|pair| common(pair) + 1).max().unwrap_or_default().max(6)
}
