//! `poptap sessions show`: one session, from its opening to its verdict.

use std::{
    io::{self, Write},
    path::Path,
};

use memchr::memmem;

use super::{
    InspectError, View,
    find::{Found, find, newest},
    human,
    kept::Kept,
    lines::Head,
    message,
    paint::{Line, Look},
    render::{Conversation, alarm, announced, particulars, undelivered, verdict},
    store::Store,
    view::{finish, write_json},
};
use crate::{
    escape::escape_line,
    record::schema::{Body, Content, Opened, Piece, Record, Summary, Tls},
};

/// Which session is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with this id, or the only one whose id begins so.
    Id(String),
    /// The one that was opened last.
    Last,
}

/// Shows one session of the store in `directory`: as text that can be pasted into a bug report, or as its records.
///
/// The store is read twice: to find the session, and then only those segments that hold it. Memory does not grow with the
/// store nor with the session. What had to be skipped is reported on `err`.
///
/// # Errors
///
/// When the directory is missing or unreadable, no session or more than one is meant, or `out` cannot be written; a
/// closed pipe is no error.
pub fn show(directory: &Path, which: &Which, view: View, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = found(&mut store, which)
        .and_then(|found| if view.json { show_json(&mut store, &found, out) } else { show_text(&mut store, &found, view, out) });
    finish(&store, result, out, err)
}

/// Visits the records of one session in order, its summary last, where there is one.
///
/// # Errors
///
/// As [`show`].
pub fn each_record(
    directory: &Path,
    which: &Which,
    visit: &mut dyn FnMut(Record),
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    each_record_since(directory, which, None, visit, err)
}

/// As [`each_record`], of a session that began at `since` (a time of the transcript): files that were not written to since then
/// are not read.
///
/// # Errors
///
/// As [`show`].
pub fn each_record_since(
    directory: &Path,
    which: &Which,
    since: Option<&str>,
    visit: &mut dyn FnMut(Record),
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let found = match which {
        Which::Id(id) => find(&mut store, id, since),
        Which::Last => found(&mut store, which),
    };
    let result = found.and_then(|found| {
        each_event(&mut store, &found, &mut |_, record| {
            visit(record);
            Ok(())
        })?;
        if let Some((_, line)) = &found.summary {
            serde_json::from_slice(line).into_iter().for_each(visit);
        }
        Ok(())
    });
    finish(&store, result, &mut std::io::sink(), err)
}

fn found(store: &mut Store<'_>, which: &Which) -> Result<Found, InspectError> {
    match which {
        Which::Id(id) => find(store, id, None),
        Which::Last => newest(store).and_then(|(start, id)| find(store, &id, Some(&start))),
    }
}

fn show_json(store: &mut Store<'_>, found: &Found, out: &mut dyn Write) -> Result<(), InspectError> {
    each_event(store, found, &mut |line, _| write_json(line, out))?;
    match &found.summary {
        Some((_, line)) => write_json(line, out),
        None => Ok(()),
    }
}

fn show_text(store: &mut Store<'_>, found: &Found, view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut page = Page { out, colour: view.colour, bodies: view.bodies };
    page.write(&header(found))?;
    page.blank()?;
    page.conversation(store, found)?;
    page.blank()?;
    page.write(&ending(found))
}

/// What is being written.
struct Page<'a> {
    out: &'a mut dyn Write,
    colour: bool,
    bodies: bool,
}

impl Page<'_> {
    fn write(&mut self, lines: &[Line]) -> Result<(), InspectError> {
        Ok(lines.iter().try_for_each(|line| line.write(self.out, self.colour))?)
    }

    fn blank(&mut self) -> Result<(), InspectError> {
        self.write(&[Line::default()])
    }

    /// One record is held back, since the number of a command depends on whether another follows at once.
    fn conversation(&mut self, store: &mut Store<'_>, found: &Found) -> Result<(), InspectError> {
        if let Some(why) = what_is_missing(found) {
            self.write(&[alarm(Look::Gap, why)])?;
        }
        let directory = store.directory();
        let mut kept = Kept::new(&directory);
        let mut conversation = Conversation::with_latencies();
        let mut held: Option<Record> = None;
        each_event(store, found, &mut |_, record| {
            if let Some(held) = &held {
                self.record(held, &conversation.lines(held, Some(&record)), &mut kept)?;
            }
            // The opening stands in the header.
            held = (!matches!(record.body, Body::Opened(_))).then_some(record);
            Ok(())
        })?;
        held.map_or(Ok(()), |held| self.record(&held, &conversation.lines(&held, None), &mut kept))
    }

    fn record(&mut self, record: &Record, lines: &[Line], kept: &mut Kept<'_>) -> Result<(), InspectError> {
        self.write(lines)?;
        match &record.body {
            Body::Content(content) if !content.kept.is_empty() => self.kept(content, kept),
            _ => Ok(()),
        }
    }

    /// What a message says of itself, and, where that is wanted, all that was kept of it.
    fn kept(&mut self, content: &Content, kept: &mut Kept<'_>) -> Result<(), InspectError> {
        let mut octets = Vec::new();
        if let Err(error) = kept.copy(&beginning_of(&content.kept), &mut octets) {
            return self.write(&[beside(Look::Gap, &format!("what was kept of it cannot be read: {}", why(&error)))]);
        }
        let fields = message::fields(&octets).into_iter().map(|(name, value)| beside(Look::Plain, &format!("{name}: {value}")));
        self.write(&fields.collect::<Vec<_>>())?;
        if !self.bodies {
            return Ok(());
        }
        let mut unfolded = Unfolded { page: self, line: Vec::new(), failed: None };
        let copied = kept.copy(&content.kept, &mut unfolded).and_then(|()| unfolded.flush());
        match (unfolded.failed.take(), copied) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => self.write(&[beside(Look::Gap, &format!("cannot be read on: {}", why(&error)))]),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Something that stands below a line of the conversation.
fn beside(look: Look, text: &str) -> Line {
    Line::new(Look::Dim, &" ".repeat(13)).with(look, text)
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "its file is gone (it has expired)".to_owned(),
        io::ErrorKind::UnexpectedEof => "its file ends before it".to_owned(),
        _ => error.to_string(),
    }
}

/// As much as is looked at for the header.
fn beginning_of(pieces: &[Piece]) -> Vec<Piece> {
    let mut left = message::LOOKED_AT;
    let cut = pieces.iter().map(|piece| {
        let length = piece.length.min(left);
        left -= length;
        Piece { length, ..piece.clone() }
    });
    cut.filter(|piece| piece.length > 0).collect()
}

/// Shows octets line by line, each of at most [`Unfolded::LONGEST`] of them.
struct Unfolded<'a, 'b> {
    page: &'a mut Page<'b>,
    line: Vec<u8>,
    failed: Option<InspectError>,
}

impl Unfolded<'_, '_> {
    const LONGEST: usize = 2000;

    fn show(&mut self) -> io::Result<()> {
        let text = escape_line(&std::mem::take(&mut self.line));
        self.page.write(&[beside(Look::Server, &format!("| {text}"))]).map_err(|error| {
            self.failed = Some(error);
            io::ErrorKind::Other.into()
        })
    }
}

impl Write for Unfolded<'_, '_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        for piece in octets.split_inclusive(|&octet| octet == b'\n') {
            for part in piece.chunks(Self::LONGEST) {
                if self.line.len() + part.len() > Self::LONGEST {
                    self.show()?;
                }
                self.line.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                self.show()?;
            }
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() { Ok(()) } else { self.show() }
    }
}

fn what_is_missing(found: &Found) -> Option<&'static str> {
    if found.segments.is_empty() {
        return Some(
            "only the summary of this session is there: `record = \"sessions\"` keeps no more, or its events have expired",
        );
    }
    found.opened.is_none().then_some("the beginning of this session is missing: its events have expired")
}

/// What is done with an event's line, and the record in it.
type Visit<'a> = dyn FnMut(&[u8], Record) -> Result<(), InspectError> + 'a;

/// Visits the events of a session in order, up to its end.
fn each_event(store: &mut Store<'_>, found: &Found, visit: &mut Visit<'_>) -> Result<(), InspectError> {
    let search = memmem::Finder::new(&found.id);
    for segment in &found.segments {
        let Some(mut lines) = store.open(segment) else { continue };
        let mut visited = Ok(());
        while visited.is_ok() && lines.advance() {
            // A summary has no place among events, unless somebody put the two streams together; it comes at the end.
            let wanted = |head: Head<'_>| head.session == found.id && head.event != "session";
            if search.find(lines.line()).is_none() || !lines.head().is_some_and(wanted) {
                continue;
            }
            if let Some(record) = lines.record() {
                visited = visit(lines.line(), record);
            }
        }
        lines.finish(&mut store.reports);
        visited?;
    }
    Ok(())
}

fn header(found: &Found) -> Vec<Line> {
    let summary = found.summary.as_ref().map(|(summary, _)| summary.as_ref());
    let (start, opened) = beginning(found);
    let lasted = summary.map_or_else(String::new, |summary| format!(", lasted {}", human::duration(summary.duration_us)));
    let client_tls = protection(found.client_tls.as_ref(), summary.and_then(|summary| summary.client_tls.as_ref()));
    let upstream_tls = protection(found.upstream_tls.as_ref(), summary.and_then(|summary| summary.upstream_tls.as_ref()));
    let mut lines = vec![
        entry("session", &found.id),
        entry("opened", &format!("{start}{lasted}")),
        entry("client", &format!("{} on {}, {client_tls}", opened.client, opened.listener)),
    ];
    lines.extend(proxy(&opened));
    lines.extend(opened.destination.as_ref().map(|destination| entry("meant for", destination)));
    lines.extend(certificate(found.client_tls.as_ref()));
    lines.push(entry("upstream", &format!("{}, {upstream_tls}", opened.upstream)));
    lines.extend(certificate(found.upstream_tls.as_ref()));
    lines.extend(summary.and_then(user));
    lines.extend(opened.credentials_revealed.then(|| alarm(Look::Anomaly, "this transcript holds passwords; do not share it")));
    lines
}

/// When and how the session was opened: from its first event, or else from its summary.
fn beginning(found: &Found) -> (String, Opened) {
    let utc = |time: &str| format!("{} UTC", human::time(time));
    match (&found.opened, &found.summary) {
        (Some((time, opened)), _) => (utc(time), opened.clone()),
        (None, Some((summary, _))) => {
            let Summary { client, listener, destination, upstream, proxied_by, credentials_revealed, .. } =
                summary.as_ref().clone();
            let announced = None;
            (utc(&summary.start), Opened { client, listener, destination, upstream, proxied_by, announced, credentials_revealed })
        }
        (None, None) => {
            let [start, client, listener, upstream] = std::array::from_fn(|_| "unknown".to_owned());
            (start, Opened { client, listener, upstream, ..Opened::default() })
        }
    }
}

/// Who announced the client, and what was said of it.
fn proxy(opened: &Opened) -> Option<Line> {
    let peer = opened.proxied_by.as_ref().map(|peer| format!("by {peer}"));
    let words: Vec<_> = peer.into_iter().chain(opened.announced.as_deref().map(announced)).collect();
    (!words.is_empty()).then(|| entry("announced", &words.join(", ")))
}

fn entry(name: &str, value: &str) -> Line {
    Line::new(Look::Strong, &format!("{name:10}")).with(Look::Plain, value)
}

/// How a hop is protected: from its TLS record, or else by the version in the summary.
fn protection(tls: Option<&Tls>, version: Option<&String>) -> String {
    match (tls, version) {
        (Some(tls), _) => format!("{} ({}, {})", tls.version, tls.mode, tls.cipher),
        (None, Some(version)) => version.clone(),
        (None, None) => "plain".to_owned(),
    }
}

fn certificate(tls: Option<&Tls>) -> Vec<Line> {
    let Some(tls) = tls else { return Vec::new() };
    let fingerprint = tls.fingerprint.as_ref().map(|fingerprint| format!("SHA-256 {fingerprint}"));
    particulars(tls).iter().chain(&fingerprint).map(|words| entry("", words)).collect()
}

fn user(summary: &Summary) -> Option<Line> {
    let user = summary.user.as_ref()?;
    let how = summary.mechanism.as_ref().map_or_else(String::new, |mechanism| format!(" with {mechanism}"));
    let done = if summary.logged_in { "logged in" } else { "not logged in" };
    Some(entry("user", &format!("{user}, {done}{how}")))
}

fn ending(found: &Found) -> Vec<Line> {
    let Some((summary, _)) = &found.summary else {
        return vec![alarm(Look::Gap, "no summary: the session is still running, or the process that recorded it was killed")];
    };
    let mut lines = vec![verdict(summary), Line::new(Look::Plain, &format!("   {}", totals(summary)))];
    if summary.events_lost > 0 {
        lines.push(alarm(Look::Gap, &format!("{} not recorded", human::plural(summary.events_lost, "event"))));
    }
    if found.segments.is_empty() {
        // Otherwise the conversation says so.
        lines.extend(undelivered(summary.client_undelivered, summary.upstream_undelivered));
    }
    lines
}

fn totals(summary: &Summary) -> String {
    let [client, upstream, messages] =
        [summary.client_octets, summary.upstream_octets, summary.message_octets].map(human::octets);
    let of_note = [
        (summary.errors, "answered -ERR"),
        (summary.deleted, "marked as deleted"),
        (summary.shielded, "of them kept from deletion"),
        (summary.login_failures, "of its logins refused"),
    ];
    let of_note = of_note.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!(", {number} {what}"));
    format!(
        "{} ({client} from the client, {upstream} from the server), {} retrieved ({messages}){}",
        human::plural(summary.commands, "command"),
        human::plural(summary.messages, "message"),
        of_note.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{super::testing::*, *};

    const EVENTS: &str = "events-20261123T063000Z-100-1.jsonl";
    const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

    fn one_session() -> Shelf {
        let others = opened("zzzzzzzzzzzz", 1);
        let summary = summary("ab12cd34ef56", 0, "bob", "complete: 1 message, 34 kB");
        Shelf::new().with(EVENTS, others + &conversation("ab12cd34ef56")).with(SESSIONS, summary)
    }

    #[test]
    fn a_whole_session_as_text() {
        let (text, reports) = one_session().show("ab12", TEXT);
        assert_eq!(reports, "");
        assert_eq!(
            text,
            "\
session   ab12cd34ef56
opened    2026-11-23 06:30:00 UTC, lasted 1.2 s
client    127.0.0.1:50312 on 127.0.0.1:1110, plain
upstream  pop3s://pop.example.net, TLSv1.3 (implicit, TLS13_AES_256_GCM_SHA384)
          certificate CN=pop.example.net
          issued by CN=Example CA
          valid until 2027-01-23T00:00:00Z
          SHA-256 ab12
user      bob, logged in with USER

"
            .to_owned()
                + CONVERSATION
                + "
== complete: 1 message, 34 kB
   6 commands (64 octets from the client, 35 kB from the server), 1 message retrieved (34 kB), 1 answered -ERR
"
        );
    }

    const CONVERSATION: &str = "  \
  +0.041  -- TLS with the server (implicit): TLSv1.3, TLS13_AES_256_GCM_SHA384; certificate CN=pop.example.net; issued by CN=Example CA; valid until 2027-01-23T00:00:00Z
  +0.060  S: +OK ready
  +0.061  C: CAPA
  +0.062  S: +OK  (after 1.0 ms)
  +0.062  -- command 1: poptap leaves a line out of the server's answer (rule stls-upstream)
  +0.062  S: TOP
          S: UIDL
          S: .
  +0.070  C: USER bob
  +0.071  S: +OK  (after 1.0 ms)
  +0.072  C: PASS <withheld, 17 octets>
  +0.400  S: +OK Logged in.  (after 328 ms)
  +0.401  C: RETR 1
  +0.402  S: +OK 34400 octets  (after 1.0 ms)
  +0.410  S: [message: 512 lines, 34 kB, sha256 1a2b3c4d…]
             [kept in content-x.bin at 12, 600 octets]
             what was kept of it cannot be read: its file is gone (it has expired)
  +0.420  C: [5] <unknown, so withheld, 9 octets>
  +0.420  C: [6] QUIT
  +0.421  S: [5] <withheld, since it repeats a secret, 20 octets>  (after 1.0 ms)
  +0.422  S: [6] +OK Bye \\x1B  (after 2.0 ms)
  +0.423  -- closed by the client (quit)
          !! 7 octets of the server's never reached the client
";

    #[test]
    fn json_is_the_very_records_in_order() {
        let (text, _) = one_session().show("ab12", JSON);
        assert_eq!(text, conversation("ab12cd34ef56") + &summary("ab12cd34ef56", 0, "bob", "complete: 1 message, 34 kB"));
    }

    #[test]
    fn a_session_spread_over_segments_in_every_stage_of_their_life() {
        let events = conversation("ab12cd34ef56");
        let (first, rest) = events.split_at(events.find("{\"v\":1").map_or(0, |at| at + events[at..].find('\n').unwrap() + 1));
        let (second, third) = rest.split_at(rest.find('\n').unwrap() + 1);
        let shelf = Shelf::new()
            .with("events-20261123T063000Z-100-9.jsonl.zst", zstd::encode_all(first.as_bytes(), 3).unwrap())
            .with("events-20261123T063000Z-100-10.jsonl", second)
            .with("events-20261123T063001Z-100-11.jsonl.open", third);
        let (text, reports) = shelf.show("ab12cd34ef56", JSON);
        assert_eq!((text, reports), (events, String::new()));
    }

    #[test]
    fn the_last_is_the_one_that_was_opened_last() {
        let sessions = summary("older1234567", 9, "bob", "complete") + &summary("oldest123456", 3, "bob", "complete");
        let shelf =
            Shelf::new().with(SESSIONS, sessions).with(EVENTS, opened("newest123456", 30_000) + &opened("older1234567", 9000));
        let mut out = Vec::new();
        show(shelf.path(), &Which::Last, TEXT, &mut out, &mut Vec::new()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("session   newest123456\n"), "{text}");
        assert!(
            text.ends_with("!! no summary: the session is still running, or the process that recorded it was killed\n"),
            "{text}"
        );
    }

    #[test]
    fn summaries_alone_say_that_there_is_no_more() {
        let (text, _) = Shelf::new().with(SESSIONS, summary("ab12cd34ef56", 0, "bob", "complete")).show("ab", TEXT);
        assert!(text.contains("\nupstream  pop3s://pop.example.net, TLSv1.3\n"), "{text}");
        assert!(text.contains("\n!! only the summary of this session is there: `record = \"sessions\"` keeps no more"), "{text}");
    }

    #[test]
    fn what_is_lost_at_either_end_is_said() {
        let (text, _) = Shelf::new().with(EVENTS, reply("ab12", 5, 7, "NOOP", "+OK", 1000)).show("ab12", TEXT);
        assert!(text.contains("\nopened    unknown\nclient    unknown on unknown, plain\n"), "{text}");
        assert!(
            text.contains(
                "\n!! the beginning of this session is missing: its events have expired\n  +0.005  S: +OK  (after 1.0 ms)\n"
            ),
            "{text}"
        );
        assert!(text.contains("\n!! no summary: "), "{text}");
    }

    #[test]
    fn forged_records_do_not_drive_the_terminal() {
        let hostile = line(
            "ab12cd34ef56",
            0,
            "\"event\":\"greeting\",\"status\":\"+OK\",\"text\":\"+OK \\u001b[2J\u{9b}1m\u{202e}\",\"octets\":1,\"offset\":0",
        );
        let (text, _) = Shelf::new().with(EVENTS, hostile).show("ab12cd34ef56", TEXT);
        assert!(text.contains("  +0.000  S: +OK \\x1B[2J\\xC2\\x9B1m\\xE2\\x80\\xAE\n"), "{text}");
        assert!(!text.contains(|character: char| character.is_control() && character != '\n'), "{text:?}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let shelf = one_session();
        let (plain, _) = shelf.show("ab12", TEXT);
        let (coloured, _) = shelf.show("ab12", View { colour: true, ..TEXT });
        assert!(coloured.contains("\x1b[36mC: \x1b[0m\x1b[36mUSER bob\x1b[0m\n"), "{coloured}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
    }

    #[test]
    fn a_closed_pipe_ends_quietly_and_another_failure_does_not() {
        struct Failing(io::ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shelf = one_session();
        let to = |kind| show(shelf.path(), &Which::Last, TEXT, &mut Failing(kind), &mut Vec::new());
        to(io::ErrorKind::BrokenPipe).unwrap();
        assert!(to(io::ErrorKind::StorageFull).unwrap_err().to_string().starts_with("could not write the output: "));
    }
}
