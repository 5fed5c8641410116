//! `poptap sessions audit`: who logs in from where, over what; from the roll-up, and from summaries that are older than it.

use std::{io::Write, path::Path};

use serde::Serialize;

use super::{
    InspectError, View,
    brief::Brief,
    human,
    lines::Lines,
    paint::{Line, Look, harmless},
    store::Store,
    view::{finish, write_json},
};
use crate::record::rollup::{Key, NEVER, Reach, Rollup, Row, Second, Seen, VERSION, address};

/// Rows that are held at most, of all files together.
const ROWS: usize = 1_000_000;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Columns, and below them how far back they reach.
    #[default]
    Table,
    /// RFC 4180; how far back they reach is said on `err`.
    Csv,
    /// One object.
    Json,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Audited {
    /// Only rows whose client hop was plain.
    pub plain: bool,
    /// Only rows that were seen at this time of the transcript or later.
    pub since: Option<String>,
    /// How rows are written.
    pub form: Form,
}

/// Tells who logged in, from where, over what, how often, first and last: of all sessions in which a login succeeded.
///
/// What had to be skipped is reported on `err`. Memory: some 300 octets for each row, of a million rows at most.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn audit(
    directory: &Path,
    asked: &Audited,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = gather(&mut store).and_then(|known| known.write(asked, view, out, err));
    finish(&store, result, out, err)
}

/// What the store knows.
struct Known {
    rollup: Rollup,
    /// Whether there is a file with a roll-up.
    rolled_up: bool,
    /// Sessions that were taken from their summaries.
    from_summaries: u64,
    /// Nobody logged in, and no summary says anything.
    nothing: bool,
}

fn gather(store: &mut Store<'_>) -> Result<Known, InspectError> {
    let mut known = Known { rollup: Rollup::new(ROWS, NEVER), rolled_up: false, from_summaries: 0, nothing: true };
    for mut lines in store.rollups()? {
        known.rolled_up |= add_file(&mut known.rollup, &mut lines);
        lines.finish(&mut store.reports);
    }
    known.nothing &= !known.rolled_up;
    known.add_summaries(store)?;
    Ok(known)
}

/// False when it is not a roll-up that we know.
fn add_file(rollup: &mut Rollup, lines: &mut Lines) -> bool {
    let Some(reach) = lines.advance().then(|| lines.other::<Reach>()).flatten().filter(|reach| reach.v == VERSION) else {
        return false;
    };
    rollup.reaches(&reach);
    while lines.advance() {
        if let Some(Row { key, seen }) = lines.other::<Row<Key>>() {
            rollup.add(key, seen);
        }
    }
    true
}

impl Known {
    /// Sessions that ended before the roll-up was begun stand in their summaries alone.
    fn add_summaries(&mut self, store: &mut Store<'_>) -> Result<(), InspectError> {
        let begun = self.rollup.reach().since.clone();
        // Names of segments have times in RFC 3339's short form.
        let second = Second::of(&begun).map(|second| second.to_string()).unwrap_or_default();
        let short: String = second.chars().filter(char::is_ascii_alphanumeric).collect();
        store.each_summary(
            |_, segment| short.is_empty() || segment.start() <= short.as_str(),
            |brief| {
                self.nothing = false;
                let Some(start) = Second::of(&brief.start) else { return };
                if !self.rolled_up && *brief.start < *self.rollup.reach().since {
                    self.rollup.reaches(&Reach::from(&brief.start));
                }
                if brief.logged_in && *brief.time < *begun {
                    self.from_summaries += 1;
                    self.rollup.add(key(brief), Seen::once(start));
                }
            },
        )
    }

    fn write(&self, asked: &Audited, view: View, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), InspectError> {
        let seen_since = asked.since.as_deref().and_then(Second::of);
        let mut rows = self.rollup.rows();
        rows.retain(|row| {
            !(asked.plain && row.key.client_tls.is_some()) && seen_since.is_none_or(|since| row.seen.last >= since)
        });
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let rows: Vec<_> = rows.iter().map(Told::from).collect();
        match asked.form {
            Form::Json => self.write_json(&rows, out),
            Form::Csv => {
                write_csv(&rows, out)?;
                self.notes().iter().try_for_each(|note| Ok(writeln!(err, "{}", harmless(note))?))
            }
            Form::Table => {
                write_table(&rows, view, out)?;
                writeln!(out)?;
                self.notes().iter().try_for_each(|note| Ok(Line::new(Look::Dim, note).write(out, view.colour)?))
            }
        }
    }

    /// How far back it reaches, in words.
    fn notes(&self) -> Vec<String> {
        if self.nothing {
            return vec!["no session is recorded here yet".to_owned()];
        }
        let Reach { since, dropped, expired, gone_until, .. } = self.rollup.reach();
        let since = format!("{} UTC", human::time(since));
        let mut notes = Vec::new();
        if self.rolled_up {
            notes.push(format!("counted since {since}"));
            if self.from_summaries > 0 {
                let sessions = human::plural(self.from_summaries, "session");
                notes.push(format!("{sessions} from before that: as far as there are summaries of them"));
            }
        } else {
            notes.push(format!("no roll-up is kept here: this is from the summaries of the sessions, the first of {since}"));
        }
        if let Some(until) = gone_until {
            let until = human::time(&until.to_string());
            let dropped = format!("{} gone for want of room (audit_rows)", human::plural(*dropped, "row"));
            notes.push(format!(
                "{dropped}, {expired} for their age (audit_keep): of who came last by {until} UTC, not all are here"
            ));
        }
        notes
    }

    fn write_json(&self, rows: &[Told<'_>], out: &mut dyn Write) -> Result<(), InspectError> {
        #[derive(Serialize)]
        struct Whole<'a> {
            since: Option<&'a str>,
            dropped: u64,
            expired: u64,
            gone_until: Option<Second>,
            rolled_up: bool,
            from_summaries: u64,
            rows: &'a [Told<'a>],
        }
        let &Reach { ref since, dropped, expired, gone_until, .. } = self.rollup.reach();
        let (rolled_up, from_summaries) = (self.rolled_up, self.from_summaries);
        let since = Some(since.as_str()).filter(|_| !self.nothing);
        let whole = Whole { since, dropped, expired, gone_until, rolled_up, from_summaries, rows };
        write_json(&serde_json::to_vec(&whole).map_err(std::io::Error::from)?, out)
    }
}

fn key(brief: &Brief<'_>) -> Key {
    Key {
        user: brief.user.clone(),
        client: address(&brief.client),
        client_tls: brief.client_tls.clone(),
        upstream_tls: brief.upstream_tls.clone(),
        mechanism: brief.mechanism.clone(),
    }
}

/// A row as it is told.
#[derive(Serialize)]
struct Told<'a> {
    user: Option<&'a str>,
    client: &'a str,
    client_tls: &'a str,
    upstream_tls: &'a str,
    mechanism: Option<&'a str>,
    sessions: u64,
    first: Second,
    last: Second,
}

impl<'a> From<&'a Row> for Told<'a> {
    fn from(Row { key, seen }: &'a Row) -> Self {
        Self {
            user: key.user.as_deref(),
            client: &key.client,
            client_tls: key.client_tls.as_deref().unwrap_or("plain"),
            upstream_tls: key.upstream_tls.as_deref().unwrap_or("plain"),
            mechanism: key.mechanism.as_deref(),
            sessions: seen.sessions,
            first: seen.first,
            last: seen.last,
        }
    }
}

const COLUMNS: usize = 8;

/// The names in CSV; a table has them in capitals.
const NAMES: [&str; COLUMNS] = ["user", "client", "client_tls", "upstream_tls", "mechanism", "sessions", "first", "last"];

const HEADINGS: [&str; COLUMNS] =
    ["USER", "CLIENT", "CLIENT TLS", "UPSTREAM TLS", "LOGIN", "SESSIONS", "FIRST (UTC)", "LAST (UTC)"];

impl Told<'_> {
    /// In the order of [`NAMES`].
    fn cells(&self, missing: &str) -> [String; COLUMNS] {
        let text = |text: &str| harmless(text).into_owned();
        let [user, mechanism] = [self.user, self.mechanism].map(|known| text(known.unwrap_or(missing)));
        let [client, client_tls, upstream_tls] = [self.client, self.client_tls, self.upstream_tls].map(text);
        let [first, last] = [self.first, self.last].map(|second| second.to_string());
        [user, client, client_tls, upstream_tls, mechanism, self.sessions.to_string(), first, last]
    }
}

fn write_csv(rows: &[Told<'_>], out: &mut dyn Write) -> Result<(), InspectError> {
    let names = NAMES.map(str::to_owned);
    for cells in std::iter::once(names).chain(rows.iter().map(|row| row.cells(""))) {
        write!(out, "{}\r\n", cells.map(|cell| quoted(&cell)).join(","))?;
    }
    Ok(())
}

/// As RFC 4180 §2 has it.
fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

fn write_table(rows: &[Told<'_>], view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    let cells = |row: &Told<'_>| {
        let mut cells = row.cells("-");
        for cell in &mut cells[6..] {
            *cell = human::time(cell);
        }
        cells
    };
    let mut widths = HEADINGS.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    Line::new(Look::Strong, &aligned(&HEADINGS.map(str::to_owned), &widths)).write(out, view.colour)?;
    for row in rows {
        let look = if row.client_tls == "plain" { Look::Own } else { Look::Plain };
        Line::new(look, &aligned(&cells(row), &widths)).write(out, view.colour)?;
    }
    Ok(())
}

/// The number stands to the right of its column.
fn aligned(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let cell = |(at, (cell, &width)): (usize, (&String, &usize))| match NAMES[at] {
        "sessions" => format!("{cell:>width$}"),
        _ => format!("{cell:width$}"),
    };
    let cells: Vec<_> = cells.iter().zip(widths).enumerate().map(cell).collect();
    cells.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Shelf, summary},
        *,
    };

    const ROLLUP: &str = concat!(
        r#"{"v":1,"since":"2026-11-23T06:30:02.000000Z","dropped":2,"expired":1,"gone_until":"2026-11-23T06:30:01Z"}"#,
        "\n",
        r#"{"user":"bob","client":"127.0.0.1","upstream_tls":"TLSv1.3","mechanism":"USER","sessions":4,"first":"2026-11-23T06:30:03Z","last":"2026-11-23T06:30:09Z"}"#,
        "\n",
        r#"{"user":"a\u001b, \"b\"","client":"2001:db8::1","client_tls":"TLSv1.2","mechanism":"PLAIN","sessions":1,"first":"2026-11-23T06:30:04Z","last":"2026-11-23T06:30:04Z"}"#,
        "\n",
    );

    fn audited(shelf: &Shelf, asked: &Audited) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        audit(shelf.path(), asked, View::default(), &mut out, &mut err).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn form(form: Form) -> Audited {
        Audited { form, ..Audited::default() }
    }

    /// A session that ended before the roll-up was begun, and one that ended behind.
    fn summaries() -> String {
        summary("one", 0, "bob", "complete") + &summary("two", 5, "bob", "complete")
    }

    #[test]
    fn summaries_fill_in_what_is_older_than_the_roll_up() {
        let shelf = Shelf::new().with("audit-1.jsonl", ROLLUP).with("sessions-20261123T063000Z-1-1.jsonl", summaries());
        let shelf = shelf.with("sessions-20261123T063003Z-1-2.jsonl", summary("three", 1, "nobody asks", "complete"));
        let (text, err) = audited(&shelf, &form(Form::Table));
        let expected = "\
USER           CLIENT       CLIENT TLS  UPSTREAM TLS  LOGIN  SESSIONS  FIRST (UTC)          LAST (UTC)
a\\x1B, \"b\"     2001:db8::1  TLSv1.2     plain         PLAIN         1  2026-11-23 06:30:04  2026-11-23 06:30:04
bob            127.0.0.1    plain       TLSv1.3       USER          5  2026-11-23 06:30:00  2026-11-23 06:30:09

counted since 2026-11-23 06:30:02 UTC
1 session from before that: as far as there are summaries of them
2 rows gone for want of room (audit_rows), 1 for their age (audit_keep): of who came last by 2026-11-23 06:30:01 UTC, not all are here
";
        let squeezed = |text: &str| text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        assert_eq!((squeezed(&text), err), (squeezed(expected), String::new()));
    }

    #[test]
    fn csv_is_quoted_and_its_reach_is_said_beside() {
        let shelf = Shelf::new().with("audit-1.jsonl", ROLLUP);
        let (text, err) = audited(&shelf, &form(Form::Csv));
        let expected = [
            "user,client,client_tls,upstream_tls,mechanism,sessions,first,last",
            "\"a\\x1B, \"\"b\"\"\",2001:db8::1,TLSv1.2,plain,PLAIN,1,2026-11-23T06:30:04Z,2026-11-23T06:30:04Z",
            "bob,127.0.0.1,plain,TLSv1.3,USER,4,2026-11-23T06:30:03Z,2026-11-23T06:30:09Z",
            "",
        ];
        assert_eq!(text, expected.join("\r\n"));
        assert!(err.starts_with("counted since 2026-11-23 06:30:02 UTC\n2 rows gone"), "{err}");
    }

    #[test]
    fn rows_can_be_left_out() {
        let shelf = Shelf::new().with("audit-1.jsonl", ROLLUP);
        for (plain, since, users) in [
            (true, None, vec!["bob"]),
            (false, Some("2026-11-23T06:30:05.000000Z"), vec!["bob"]),
            (false, Some("2026-11-23T06:30:10.000000Z"), vec![]),
        ] {
            let asked = Audited { plain, since: since.map(str::to_owned), form: Form::Json };
            let (text, _) = audited(&shelf, &asked);
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            let found: Vec<_> = told["rows"].as_array().unwrap().iter().map(|row| row["user"].as_str().unwrap()).collect();
            assert_eq!(found, users, "{text}");
            assert_eq!(told["since"], "2026-11-23T06:30:02.000000Z");
        }
    }

    #[test]
    fn without_a_roll_up_summaries_alone_are_told_and_that_is_said() {
        let shelf = Shelf::new().with("sessions-20261123T063000Z-1-1.jsonl", summaries());
        let (text, _) = audited(&shelf, &form(Form::Table));
        assert!(
            text.contains(
                "no roll-up is kept here: this is from the summaries of the sessions, the first of 2026-11-23 06:30:00 UTC"
            ),
            "{text}"
        );
        assert!(text.contains("       2  2026-11-23 06:30:00  2026-11-23 06:30:05"), "{text}");
        let (text, _) = audited(&Shelf::new(), &form(Form::Table));
        assert!(text.ends_with("\n\nno session is recorded here yet\n"), "{text}");
    }

    #[test]
    fn files_of_several_processes_are_one_list_and_odd_ones_are_reported() {
        let shelf = Shelf::new().with("audit-1.jsonl", ROLLUP).with("audit-2.jsonl", ROLLUP.to_owned() + "{\"x\":1}\n");
        let shelf = shelf.with("audit-3.jsonl", "{\"v\":2,\"since\":\"2026-11-23T06:30:02Z\"}\n").with("audit-4.jsonl", "no\n");
        let (text, err) = audited(&shelf, &form(Form::Csv));
        assert!(text.contains("bob,127.0.0.1,plain,TLSv1.3,USER,8,"), "{text}");
        assert!(err.contains("1 unreadable line skipped in audit-2.jsonl") && err.contains("audit-4.jsonl"), "{err}");
    }
}
