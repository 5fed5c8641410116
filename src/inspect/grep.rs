//! `poptap sessions grep`: sessions for which an expression holds, and the commands in them.

use std::{io::Write, path::Path};

use serde::Serialize;

use super::{
    InspectError, Selection, View,
    filter::Said,
    human,
    paint::{Line, Look},
    progress,
    search::{Match, each_match},
    store::Store,
    view::{finish, write_json},
};
use crate::record::schema::{Body, Record};

/// Writes each session of the store in `directory` for which the selection's filter holds, with the commands for which it
/// holds, as they are found; as JSON Lines, one object for each command, or each session's record where the filter asks about
/// sessions alone. Says whether there was any.
///
/// Of a session's commands the first 1,000 are told, the rest counted. Memory does not grow with the store: it holds what has
/// no summary, some numbers of 128 Ki sessions at most, and 16 MiB of commands. What had to be skipped is reported on `err`.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn grep(
    directory: &Path,
    selection: &Selection,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, InspectError> {
    let mut store = Store::new(directory);
    store.show_progress(selection.progress);
    let mut found = false;
    let result = each_match(&mut store, &selection.filter, selection.since.as_deref(), &mut |matched| {
        found = true;
        progress::hide();
        if view.json { write_objects(matched, out) } else { write_text(matched, view.colour, out) }
    });
    finish(&store, result.map(|_all| ()), out, err).map(|()| found)
}

/// Writes how many sessions there are for which the selection's filter holds.
///
/// # Errors
///
/// As [`grep`].
pub fn count(directory: &Path, selection: &Selection, out: &mut dyn Write, err: &mut dyn Write) -> Result<bool, InspectError> {
    let mut store = Store::new(directory);
    store.show_progress(selection.progress);
    let mut sessions = 0_u64;
    let result = each_match(&mut store, &selection.filter, selection.since.as_deref(), &mut |_matched| {
        sessions += 1;
        Ok(())
    });
    progress::hide();
    let result = result.and_then(|_all| Ok(writeln!(out, "{sessions}")?));
    finish(&store, result, out, err).map(|()| sessions > 0)
}

fn write_text(matched: &Match<'_>, colour: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let Ok(record) = serde_json::from_slice::<Record>(matched.line) else { return Ok(()) };
    heading(&record).write(out, colour)?;
    for hit in matched.hits {
        lines(hit).iter().try_for_each(|line| line.write(out, colour))?;
    }
    if matched.more > 0 {
        let more = format!("{:>10}  … and {} more", "", human::plural(matched.more, "command"));
        Line::new(Look::Dim, &more).write(out, colour)?;
    }
    Ok(())
}

/// The session in one line.
fn heading(record: &Record) -> Line {
    let (start, client, user, upstream, end) = match &record.body {
        Body::Session(summary) => {
            (&summary.start, &summary.client, summary.user.as_deref(), &summary.upstream, summary.verdict.as_str())
        }
        Body::Opened(opened) => (&record.time, &opened.client, None, &opened.upstream, "running or lost"),
        _ => return Line::default(),
    };
    let user = user.unwrap_or("-");
    Line::new(Look::Strong, &record.session)
        .with(Look::Plain, &format!("  {}  {client}  {user}  {upstream}  {end}", human::time(start)))
}

/// A command and its reply, a line each.
fn lines(hit: &Said) -> [Line; 2] {
    let time = format!("+{}.{:03}", hit.at_us / 1_000_000, hit.at_us / 1000 % 1000);
    let withheld = || format!("{} <withheld>", hit.verb);
    let said = hit.line.as_deref().map_or_else(withheld, str::to_owned);
    let command = Line::new(Look::Dim, &format!("{time:>10}  ")).with(Look::Client, &format!("C: [{}] {said}", hit.n));
    let blanks = Line::new(Look::Dim, &" ".repeat(12));
    if hit.status.is_empty() {
        return [command, blanks.with(Look::Anomaly, &format!("S: [{}] no reply", hit.n))];
    }
    let text = hit.reply.as_deref().map_or_else(|| format!("{} <withheld>", hit.status), str::to_owned);
    let after = hit.latency_us.map(|latency| format!("after {}", human::duration(latency)));
    let size = hit.size.map(human::octets);
    let particulars = after.into_iter().chain(size).collect::<Vec<_>>().join(", ");
    let reply = blanks.with(Look::Server, &format!("S: [{}] {text}", hit.n));
    [command, reply.with(Look::Dim, &format!("  ({particulars})"))]
}

/// A command that matches, as JSON.
#[derive(Serialize)]
struct Object<'a> {
    session: &'a str,
    n: u64,
    at_us: u64,
    keyword: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

fn write_objects(matched: &Match<'_>, out: &mut dyn Write) -> Result<(), InspectError> {
    if matched.hits.is_empty() {
        return write_json(matched.line, out);
    }
    let Ok(record) = serde_json::from_slice::<Record>(matched.line) else { return Ok(()) };
    for hit in matched.hits {
        let object = Object {
            session: &record.session,
            n: hit.n,
            at_us: hit.at_us,
            keyword: &hit.verb,
            text: hit.line.as_deref(),
            status: Some(&*hit.status).filter(|status| !status.is_empty()),
            reply: hit.reply.as_deref(),
            latency_us: hit.latency_us,
            size: hit.size,
        };
        let line = serde_json::to_vec(&object).map_err(std::io::Error::from)?;
        write_json(&line, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{filter::Filter, testing::*};
    use super::*;

    const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
    const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

    fn store() -> Shelf {
        let sessions =
            summary("aaaaaaaaaaaa", 0, "anna", "complete: 1 message, 34 kB") + &summary("bbbbbbbbbbbb", 9, "bob", "complete");
        let running = opened("cccccccccccc", 20_000) + &command("cccccccccccc", 20_500, 1, "STAT", r#""text":"STAT","octets":6"#);
        let events = conversation("aaaaaaaaaaaa") + &conversation("bbbbbbbbbbbb") + &running;
        Shelf::new().with(SESSIONS, sessions).with(EVENTS, events)
    }

    fn found(shelf: &Shelf, expression: &str, view: View) -> String {
        let selection = Selection { filter: Filter::parse(expression).unwrap(), ..Selection::all() };
        let (result, out, err) = captured(|out, err| grep(shelf.path(), &selection, view, out, err));
        assert_eq!((result.unwrap(), err.as_str()), (!out.is_empty(), ""), "{expression}");
        out
    }

    #[test]
    fn sessions_and_the_commands_in_them() {
        let expected = "\
aaaaaaaaaaaa  2026-11-23 06:30:00  127.0.0.1:50312  anna  pop3s://pop.example.net  complete: 1 message, 34 kB
    +0.072  C: [3] PASS
            S: [3] +OK Logged in.  (after 328 ms)
    +0.401  C: [4] RETR 1
            S: [4] +OK 34400 octets  (after 1 ms, 34 kB)
";
        assert_eq!(found(&store(), "user = anna and (latency > 300ms or size > 30kB)", TEXT), expected);
        let expected = "cccccccccccc  2026-11-23 06:30:20  127.0.0.1:50312  -  pop3s://pop.example.net  running or lost\n   +20.500  C: [1] STAT\n            S: [1] no reply\n";
        assert_eq!(found(&store(), "verb = STAT", TEXT), expected);
        assert_eq!(found(&store(), "verb = STAT and not running", TEXT), "");
    }

    #[test]
    fn which_sessions_match() {
        for (expression, expected) in [
            ("status = -ERR", "aaaaaaaaaaaa bbbbbbbbbbbb"),
            ("user = bob and status = -ERR", "bbbbbbbbbbbb"),
            ("user = bob", "bbbbbbbbbbbb"),
            ("running", "cccccccccccc"),
            ("not running", "aaaaaaaaaaaa bbbbbbbbbbbb"),
            ("user = bob or verb = STAT", "bbbbbbbbbbbb cccccccccccc"),
            ("verb = XYZZY", ""),
            ("line ~ '^user bob$'", "aaaaaaaaaaaa bbbbbbbbbbbb"),
        ] {
            let json = found(&store(), expression, JSON);
            let mut ids: Vec<_> = json
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["session"].as_str().unwrap().to_owned())
                .collect();
            ids.dedup();
            assert_eq!(ids.join(" "), expected, "{expression}");
        }
    }

    #[test]
    fn a_hit_as_json() {
        let json = found(&store(), "user = bob and verb = RETR", JSON);
        let expected = r#"{"session":"bbbbbbbbbbbb","n":4,"at_us":401000,"keyword":"RETR","text":"RETR 1","status":"+OK","reply":"+OK 34400 octets","latency_us":1000,"size":34400}"#;
        assert_eq!(json, format!("{expected}\n"));
    }

    #[test]
    fn many_hits_are_counted() {
        let commands: String = (1..=1500).map(|n| command("aaaaaaaaaaaa", 1, n, "NOOP", r#""text":"NOOP","octets":6"#)).collect();
        let events = opened("aaaaaaaaaaaa", 0) + &commands;
        let shelf = Shelf::new().with(EVENTS, events).with(SESSIONS, summary("aaaaaaaaaaaa", 0, "anna", "complete"));
        assert!(found(&shelf, "verb = NOOP", TEXT).ends_with("            … and 500 commands more\n"));
    }

    #[test]
    fn a_count() {
        let selection = Selection { filter: Filter::parse("verb = RETR").unwrap(), ..Selection::all() };
        let (result, out, _) = captured(|out, err| count(store().path(), &selection, out, err));
        assert_eq!((result.unwrap(), out.as_str()), (true, "2\n"));
    }
}
