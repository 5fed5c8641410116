//! `poptap sessions list`: one line for each session, newest last.

use std::{cmp::Reverse, collections::BinaryHeap, io::Write, path::Path};

use super::{
    InspectError, View,
    filter::{Facts, Filter},
    paint::harmless,
    progress,
    search::{Match, each_match},
    store::Store,
    table::Table,
    view::{finish, write_json},
};

/// Which sessions are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Those for which this holds.
    pub filter: Filter,
    /// Those that began at this time (as the transcript writes it) or later.
    pub since: Option<String>,
    /// The newest so many.
    pub limit: Option<usize>,
    /// Whether standard error is a terminal, and is told how far the reading has come.
    pub progress: bool,
}

impl Selection {
    /// Every session.
    #[must_use]
    pub fn all() -> Self {
        Self { filter: Filter::all([]), since: None, limit: None, progress: false }
    }
}

/// Lists sessions of the store in `directory`, newest last, as a table or as JSON Lines. Says whether there was any.
///
/// Sessions without a summary are listed too, as `running or lost`; in JSON by their `opened` record. JSON Lines come in
/// the order of the store, sessions without a summary last; with a limit, in the order of their beginning. What had to be
/// skipped is reported on `err`, and so is that there is no session at all. Memory does not grow with the store: it holds
/// what has no summary and some thousand rows, or as many as the limit says.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn list(
    directory: &Path,
    selection: &Selection,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, InspectError> {
    let mut store = Store::new(directory);
    store.show_progress(selection.progress);
    let mut found = false;
    let result = if view.json {
        list_json(&mut store, selection, &mut found, out)
    } else {
        list_table(&mut store, selection, view, &mut found, out)
    };
    let result = match result {
        Ok(0) => {
            let empty = InspectError::Empty(store.directory());
            writeln!(err, "{}", harmless(&empty.to_string())).map_err(InspectError::from)
        }
        other => other.map(|_all| ()),
    };
    finish(&store, result, out, err).map(|()| found)
}

fn list_table(
    store: &mut Store<'_>,
    selection: &Selection,
    view: View,
    found: &mut bool,
    out: &mut dyn Write,
) -> Result<u64, InspectError> {
    let mut table = Table::new(view, selection.limit, out);
    let all = each_match(store, &selection.filter, selection.since.as_deref(), &mut |matched| {
        *found = true;
        serde_json::from_slice(matched.line).map_or(Ok(()), |record| table.add(&record))
    })?;
    table.finish()?;
    Ok(all)
}

fn list_json(store: &mut Store<'_>, selection: &Selection, found: &mut bool, out: &mut dyn Write) -> Result<u64, InspectError> {
    let (filter, since) = (&selection.filter, selection.since.as_deref());
    let Some(limit) = selection.limit else {
        return each_match(store, filter, since, &mut |matched| {
            *found = true;
            progress::hide();
            write_json(matched.line, out)
        });
    };
    let mut newest = BinaryHeap::new();
    let all = each_match(store, filter, since, &mut |matched| {
        *found = true;
        newest.push(Reverse((start(matched), matched.line.to_vec())));
        if newest.len() > limit {
            newest.pop();
        }
        Ok(())
    })?;
    while let Some(Reverse((_, line))) = newest.pop() {
        write_json(&line, out)?;
    }
    Ok(all)
}

fn start(matched: &Match<'_>) -> String {
    serde_json::from_slice::<Facts<'_>>(matched.line).map_or_else(|_| String::new(), |facts| facts.start().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{super::testing::*, *};
    use crate::record::schema::Body;

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
    fn thirty_thousand_sessions() {
        let (mut sessions, mut events) = (String::new(), String::new());
        for number in 0..30_000 {
            let id = format!("{number:012}");
            write!(sessions, "{}", summary(&id, number % 60, "bob", "complete")).unwrap();
            write!(events, "{}", opened(&id, number % 60 * 1000)).unwrap();
        }
        let packed = zstd::encode_all(events.as_bytes(), 1).unwrap();
        let (table, reports) = Shelf::new().with(SESSIONS, sessions).with(&format!("{EVENTS}.zst"), packed).list(TEXT);
        assert_eq!((table.lines().count(), reports), (30_001, String::new()));
        assert!(table.ends_with("complete\n") && !table.contains("running or lost"));
    }
}
