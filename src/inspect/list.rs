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

/// What is done with a session's line, and the record in it.
type Visit<'a> = dyn FnMut(&[u8], &Record) -> Result<(), InspectError> + 'a;

/// Visits every session once, by its summary or else by its `opened` record, and says how many there are.
fn each_session(store: &mut Store<'_>, visit: &mut Visit<'_>) -> Result<usize, InspectError> {
    let mut seen = HashSet::new();
    for stream in [Stream::Sessions, Stream::Events] {
        for segment in store.segments(stream)? {
            let Some(mut lines) = store.open(&segment) else { continue };
            let visited = each_of_kind(&mut lines, stream.landmark(), &mut seen, visit);
            lines.finish(&mut store.reports);
            visited?;
        }
    }
    Ok(seen.len())
}

fn each_of_kind(lines: &mut Lines, kind: &str, seen: &mut HashSet<Box<str>>, visit: &mut Visit<'_>) -> Result<(), InspectError> {
    // Most lines of the events are of another kind: a search is far cheaper than to parse them.
    let quoted = format!("\"{kind}\"");
    let finder = memchr::memmem::Finder::new(&quoted);
    while lines.advance() {
        if finder.find(lines.line()).is_none() {
            continue;
        }
        if lines.head().is_none_or(|head| head.event != kind || seen.contains(&*head.session)) {
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

fn write_table(rows: &[Row], view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    let length = unique_length(rows);
    let mut widths = HEADINGS.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(shown(row, length)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let kept = fitting(&widths, view.width);
    let headings = aligned(HEADINGS.map(str::to_owned), &widths, kept);
    Line::new(Look::Strong, &cut(&headings, view.width)).write(out, view.colour)?;
    for row in rows {
        let text = aligned(shown(row, length), &widths, kept);
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
fn aligned(mut cells: [String; COLUMNS], widths: &[usize; COLUMNS], kept: [bool; COLUMNS]) -> String {
    for (column, (cell, width)) in cells.iter_mut().zip(widths).enumerate() {
        *cell = if TO_THE_RIGHT.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:width$}") };
    }
    cells.swap(0, 1);
    let cells = cells.into_iter().zip(kept).filter_map(|(cell, kept)| kept.then_some(cell));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{super::testing::*, *};

    const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
    const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

    fn three_sessions() -> Shelf {
        let sessions = summary("bbbbbbbbbbbb", 9, "carol", "login refused by the server")
            + &summary("aaaaaaaaaaaa", 3, "bob", "complete: 1 message, 34 kB").replace("\"user\":\"bob\",", "");
        let events = opened("bbbbbbbbbbbb", 9000) + &opened("cccccccccccc", 12_000) + &conversation("aaaaaaaaaaaa");
        Shelf::new().with(SESSIONS, sessions).with(EVENTS, events)
    }

    #[test]
    fn a_table_newest_last() {
        let (table, reports) = three_sessions().list(TEXT);
        assert_eq!(reports, "");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
ID      START (UTC)          CLIENT           USER   UPSTREAM                 TLS              COMMANDS  MESSAGES  OCTETS  LASTED  ENDED
aaaaaa  2026-11-23 06:30:03  127.0.0.1:50312  -      pop3s://pop.example.net  plain → TLSv1.3         6         1   35 kB   1.2 s  complete: 1 message, 34 kB
bbbbbb  2026-11-23 06:30:09  127.0.0.1:50312  carol  pop3s://pop.example.net  plain → TLSv1.3         6         1   35 kB   1.2 s  login refused by the server
cccccc  2026-11-23 06:30:12  127.0.0.1:50312  -      pop3s://pop.example.net  -                       -         -       -       -  running or lost
";

    #[test]
    fn cut_to_the_terminal() {
        let (table, _) = three_sessions().list(View { width: Some(30), ..TEXT });
        assert_eq!(table.lines().nth(1), Some("aaaaaa  2026-11-23 06:30:03  …"));
        assert!(table.lines().all(|line| line.chars().count() <= 30), "{table}");
    }

    #[test]
    fn a_narrow_terminal_still_shows_how_sessions_ended() {
        let (table, _) = three_sessions().list(View { width: Some(80), ..TEXT });
        let expected = "\
ID      START (UTC)          USER   MESSAGES  ENDED
aaaaaa  2026-11-23 06:30:03  -             1  complete: 1 message, 34 kB
bbbbbb  2026-11-23 06:30:09  carol         1  login refused by the server
cccccc  2026-11-23 06:30:12  -             -  running or lost
";
        assert_eq!(table, expected);
        assert_eq!(three_sessions().list(View { width: Some(160), ..TEXT }).0, TABLE);
    }

    #[test]
    fn json_is_the_summaries_and_then_what_has_none() {
        let (text, _) = three_sessions().list(JSON);
        let events: Vec<_> =
            text.lines().map(|line| (record(line).session, matches!(record(line).body, Body::Session(_)))).collect();
        let expected = [("bbbbbbbbbbbb", true), ("aaaaaaaaaaaa", true), ("cccccccccccc", false)];
        assert_eq!(events, expected.map(|(id, summary)| (id.to_owned(), summary)));
    }

    #[test]
    fn ids_are_as_long_as_it_takes_to_tell_them_apart() {
        let sessions = ["aaaaaaaa1234", "aaaaaaaa2234"].map(|id| summary(id, 0, "bob", "complete")).concat();
        let (table, _) = Shelf::new().with(SESSIONS, sessions).list(TEXT);
        assert!(table.contains("\naaaaaaaa1  2026") && table.contains("\naaaaaaaa2  2026"), "{table}");
    }

    #[test]
    fn a_hostile_user_name_stays_in_its_cell() {
        let (table, _) = Shelf::new().with(SESSIONS, summary("ab", 0, "\\t\\n\\u001b[2J", "complete")).list(TEXT);
        assert!(table.contains("  \\x09\\x0A\\x1B[2J  "), "{table}");
        assert_eq!(table.lines().count(), 2);
    }

    #[test]
    fn no_session_is_said_and_is_no_failure() {
        let shelf = Shelf::new();
        let (table, reports) = shelf.list(TEXT);
        let place = shelf.path().display();
        assert_eq!(table, "");
        assert_eq!(
            reports,
            format!("no session is recorded in `{place}` yet; `poptap run --transcript {place} URL` records there\n")
        );
    }

    #[test]
    fn a_hundred_thousand_sessions() {
        let (mut sessions, mut events) = (String::new(), String::new());
        for number in 0..100_000 {
            let id = format!("{number:012}");
            write!(sessions, "{}", summary(&id, number % 60, "bob", "complete")).unwrap();
            write!(events, "{}", opened(&id, number % 60 * 1000)).unwrap();
        }
        let packed = zstd::encode_all(events.as_bytes(), 1).unwrap();
        let (table, reports) = Shelf::new().with(SESSIONS, sessions).with(&format!("{EVENTS}.zst"), packed).list(TEXT);
        assert_eq!((table.lines().count(), reports), (100_001, String::new()));
        assert!(table.ends_with("complete\n") && !table.contains("running or lost"));
    }
}
