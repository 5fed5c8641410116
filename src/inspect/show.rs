//! `poptap sessions show`: one session, from its opening to its verdict.

use std::{io::Write, path::Path};

use memchr::memmem;

use super::{
    InspectError, View,
    find::{Found, find, newest},
    human,
    paint::{Line, Look},
    render::{Conversation, alarm, undelivered, verdict},
    store::Store,
    view::{finish, write_json},
};
use crate::record::schema::{Body, Record, Summary, Tls};

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
    let result = found(&mut store, which).and_then(|found| match view.json {
        true => show_json(&mut store, &found, out),
        false => show_text(&mut store, &found, view.colour, out),
    });
    finish(&store, result, out, err)
}

fn found(store: &mut Store<'_>, which: &Which) -> Result<Found, InspectError> {
    match which {
        Which::Id(id) => find(store, id),
        Which::Last => newest(store).and_then(|id| find(store, &id)),
    }
}

fn show_json(store: &mut Store<'_>, found: &Found, out: &mut dyn Write) -> Result<(), InspectError> {
    each_event(store, found, &mut |line, _| write_json(line, out))?;
    match &found.summary {
        Some((_, line)) => write_json(line, out),
        None => Ok(()),
    }
}

fn show_text(store: &mut Store<'_>, found: &Found, colour: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut page = Page { out, colour };
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
        let mut conversation = Conversation::default();
        let mut held: Option<Record> = None;
        each_event(store, found, &mut |_, record| {
            let lines = held.as_ref().map(|held| conversation.lines(held, Some(&record)));
            // The opening stands in the header.
            held = (!matches!(record.body, Body::Opened(_))).then_some(record);
            self.write(&lines.unwrap_or_default())
        })?;
        let last = held.map(|held| conversation.lines(&held, None));
        self.write(&last.unwrap_or_default())
    }
}

fn what_is_missing(found: &Found) -> Option<&'static str> {
    if found.segments.is_empty() {
        return Some("only the summary of this session is there: `record = \"sessions\"` keeps no more, or its events have expired");
    }
    found.opened.is_none().then_some("the beginning of this session is missing: its events have expired")
}

/// Visits the events of a session in order, up to its end.
fn each_event(
    store: &mut Store<'_>,
    found: &Found,
    visit: &mut dyn FnMut(&[u8], Record) -> Result<(), InspectError>,
) -> Result<(), InspectError> {
    let search = memmem::Finder::new(&found.id);
    for segment in &found.segments {
        let Some(mut lines) = store.open(segment) else { continue };
        let mut visited = Ok(());
        while visited.is_ok() && lines.advance() {
            if search.find(lines.line()).is_none() || lines.head().is_none_or(|head| head.session != found.id) {
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
    let opened = found.opened.as_ref();
    let start = opened.map(|(time, _)| time).or(summary.map(|summary| &summary.start));
    let from = |field: fn(&crate::record::schema::Opened) -> &String, other: fn(&Summary) -> &String| {
        opened.map(|(_, opened)| field(opened)).or(summary.map(other)).map_or("unknown", String::as_str)
    };
    let lasted = summary.map_or_else(String::new, |summary| format!(", lasted {}", human::duration(summary.duration_us)));
    let [client, listener, upstream] = [
        from(|opened| &opened.client, |summary| &summary.client),
        from(|opened| &opened.listener, |summary| &summary.listener),
        from(|opened| &opened.upstream, |summary| &summary.upstream),
    ];
    let [client_tls, upstream_tls] = [
        protection(found.client_tls.as_ref(), summary, |summary| summary.client_tls.as_ref()),
        protection(found.upstream_tls.as_ref(), summary, |summary| summary.upstream_tls.as_ref()),
    ];
    let mut lines = vec![
        entry("session", &found.id),
        entry("opened", &format!("{} UTC{lasted}", start.map_or_else(|| "unknown".to_owned(), |start| human::time(start)))),
        entry("client", &format!("{client} on {listener}, {client_tls}")),
    ];
    lines.extend(certificate(found.client_tls.as_ref()));
    lines.push(entry("upstream", &format!("{upstream}, {upstream_tls}")));
    lines.extend(certificate(found.upstream_tls.as_ref()));
    lines.extend(summary.and_then(user));
    let revealed = opened.is_some_and(|(_, opened)| opened.credentials_revealed) || summary.is_some_and(|summary| summary.credentials_revealed);
    lines.extend(revealed.then(|| alarm(Look::Anomaly, "this transcript holds passwords; do not share it")));
    lines
}

fn entry(name: &str, value: &str) -> Line {
    Line::new(Look::Strong, &format!("{name:10}")).with(Look::Plain, value)
}

fn protection<'a>(tls: Option<&Tls>, summary: Option<&'a Summary>, version: fn(&'a Summary) -> Option<&'a String>) -> String {
    match (tls, summary.and_then(version)) {
        (Some(tls), _) => format!("{} ({}, {})", tls.version, tls.mode, tls.cipher),
        (None, Some(version)) => version.clone(),
        (None, None) => "plain".to_owned(),
    }
}

fn certificate(tls: Option<&Tls>) -> Vec<Line> {
    let fields = tls.map(|tls| [("certificate", &tls.subject), ("issued by", &tls.issuer), ("valid until", &tls.not_after), ("SHA-256", &tls.fingerprint)]);
    let fields = fields.into_iter().flatten().filter_map(|(name, field)| Some((name, field.as_ref()?)));
    fields.map(|(name, field)| entry("", &format!("{name} {field}"))).collect()
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
    let [client, upstream, messages] = [summary.client_octets, summary.upstream_octets, summary.message_octets].map(human::octets);
    let mut text = human::plural(summary.commands, "command");
    if summary.errors > 0 {
        text += &format!(" ({} answered -ERR)", summary.errors);
    }
    text += &format!(", {} retrieved ({messages})", human::plural(summary.messages, "message"));
    if summary.deleted > 0 {
        text += &format!(", {} marked as deleted", summary.deleted);
    }
    if summary.login_failures > 0 {
        text += &format!(", {} refused", human::plural(summary.login_failures, "login"));
    }
    format!("{text}; {client} from the client, {upstream} from the server")
}
