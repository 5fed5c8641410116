//! `poptap sessions list`: one line for each session, newest last.

use std::{collections::HashSet, io::Write, path::Path};

use super::{
    InspectError, View, human,
    lines::Lines,
    paint::{Line, Look, harmless},
    store::{Store, Stream},
    view::{finish, write_json},
};
use crate::record::schema::{Body, Opened, Record, Summary};

/// Lists the sessions of the store in `directory`, newest last, as a table or as JSON Lines.
///
/// Sessions without a summary are listed too, as `running or lost`; in JSON by their `opened` record. JSON Lines come in
/// the order of the store, sessions without a summary last. What had to be skipped is reported on `err`, and so is that
/// there is no session at all. Memory: about 200 octets for each session, less for JSON.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn list(directory: &Path, view: View, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = if view.json { list_json(&mut store, out) } else { list_table(&mut store, view, out) };
    match result {
        Ok(0) => {
            let empty = InspectError::Empty(store.directory());
            let said = writeln!(err, "{}", harmless(&empty.to_string()));
            finish(&store, said.map_err(InspectError::from), out, err)
        }
        other => finish(&store, other.map(|_| ()), out, err),
    }
}

fn list_json(store: &mut Store<'_>, out: &mut dyn Write) -> Result<usize, InspectError> {
    each_session(store, &mut |line, _| write_json(line, out))
}

fn list_table(store: &mut Store<'_>, view: View, out: &mut dyn Write) -> Result<usize, InspectError> {
    let mut rows = Vec::new();
    each_session(store, &mut |_, record| {
        rows.extend(Row::new(record));
        Ok(())
    })?;
    rows.sort_unstable();
    if !rows.is_empty() {
        write_table(&rows, view, out)?;
    }
    Ok(rows.len())
}

/// Visits every session once, by its summary or else by its `opened` record, and says how many there are.
fn each_session(
    store: &mut Store<'_>,
    visit: &mut dyn FnMut(&[u8], &Record) -> Result<(), InspectError>,
) -> Result<usize, InspectError> {
    let mut seen = HashSet::new();
    for (stream, kind) in [(Stream::Sessions, "session"), (Stream::Events, "opened")] {
        for segment in store.segments(stream)? {
            let Some(mut lines) = store.open(&segment) else { continue };
            let visited = each_of_kind(&mut lines, kind, &mut seen, visit);
            lines.finish(&mut store.reports);
            visited?;
        }
    }
    Ok(seen.len())
}

fn each_of_kind(
    lines: &mut Lines,
    kind: &str,
    seen: &mut HashSet<Box<str>>,
    visit: &mut dyn FnMut(&[u8], &Record) -> Result<(), InspectError>,
) -> Result<(), InspectError> {
    // Most lines of the events are of another kind: a search is far cheaper than to parse them.
    let quoted = format!("\"{kind}\"");
    let finder = memchr::memmem::Finder::new(&quoted);
    while lines.advance() {
        if finder.find(lines.line()).is_none() || lines.head().is_none_or(|head| head.event != kind) {
            continue;
        }
        if let Some(record) = lines.record()
            && seen.insert(record.session.as_str().into())
        {
            visit(lines.line(), &record)?;
        }
    }
    Ok(())
}

/// How the table is headed. The columns stand in the order of a [`Row`]'s cells.
const HEADINGS: [&str; COLUMNS] =
    ["START (UTC)", "ID", "CLIENT", "USER", "UPSTREAM", "TLS", "COMMANDS", "MESSAGES", "OCTETS", "LASTED", "ENDED"];
const COLUMNS: usize = 11;

/// Numbers stand to the right of their columns.
const TO_THE_RIGHT: std::ops::Range<usize> = 6..10;

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

fn write_table(rows: &[Row], view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    let length = unique_length(rows);
    let mut widths = HEADINGS.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(shown(row, length)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings = aligned(HEADINGS.map(str::to_owned), &widths);
    Line::new(Look::Strong, &cut(&headings, view.width)).write(out, view.colour)?;
    for row in rows {
        let text = aligned(shown(row, length), &widths);
        Line::new(Look::Plain, &cut(&text, view.width)).write(out, view.colour)?;
    }
    Ok(())
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

/// Id first, then the other columns, two blanks between them.
fn aligned(mut cells: [String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    for (column, (cell, width)) in cells.iter_mut().zip(widths).enumerate() {
        *cell = if TO_THE_RIGHT.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:width$}") };
    }
    cells.swap(0, 1);
    cells.join("  ").trim_end().to_owned()
}

fn cut(text: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if text.chars().count() > width => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

/// How many characters of their ids tell the sessions apart: at least 6.
fn unique_length(rows: &[Row]) -> usize {
    let mut ids: Vec<&str> = rows.iter().map(Row::id).collect();
    ids.sort_unstable();
    let common = |pair: &[&str]| pair[0].chars().zip(pair[1].chars()).take_while(|(one, other)| one == other).count();
    ids.windows(2).map(|pair| common(pair) + 1).max().unwrap_or_default().max(6)
}
