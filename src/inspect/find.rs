//! Which session is meant: a prefix of its id, or the newest.

use std::collections::BTreeMap;

use memchr::memmem;

use super::{
    InspectError,
    lines::Lines,
    store::{Segment, Store, Stream},
};
use crate::record::schema::{Body, Hop, Opened, Record, Summary, Tls};

/// Sessions whose ids begin alike and that are named; more are only said to exist.
const CANDIDATES: usize = 16;

/// One session: where its events are, and what stands above its conversation.
#[derive(Default)]
pub(super) struct Found {
    /// Its id.
    pub(super) id: String,
    /// Segments with events of it, in order.
    pub(super) segments: Vec<Segment>,
    /// When and how it began; with the upstream that serves it.
    pub(super) opened: Option<(String, Opened)>,
    /// TLS with the client, the last if there was more.
    pub(super) client_tls: Option<Tls>,
    /// TLS with the server.
    pub(super) upstream_tls: Option<Tls>,
    /// Its summary, once it is over, and the line that it stands in.
    pub(super) summary: Option<(Box<Summary>, Vec<u8>)>,
}

impl Found {
    fn take(&mut self, record: Record, line: &[u8]) {
        match record.body {
            Body::Opened(opened) => self.opened = Some((record.time, opened)),
            Body::Reached(reached) => {
                if let Some((_, opened)) = &mut self.opened {
                    opened.upstream = reached.upstream;
                }
            }
            Body::Tls(tls) if tls.hop == Hop::Client => self.client_tls = Some(tls),
            Body::Tls(tls) => self.upstream_tls = Some(tls),
            Body::Session(summary) => self.summary = Some((summary, line.to_owned())),
            _ => {}
        }
    }
}

/// The one session whose id is `id`, or else the one whose id begins so.
///
/// Segments that were not written to since `since` (a time of the transcript) are left out.
pub(super) fn find(store: &mut Store<'_>, id: &str, since: Option<&str>) -> Result<Found, InspectError> {
    let mut finder = Finder { prefix: id.to_ascii_lowercase(), found: BTreeMap::new(), more: false };
    for stream in [Stream::Events, Stream::Sessions] {
        for segment in store.segments(stream)? {
            if since.zip(store.modified(&segment)).is_some_and(|(since, modified)| modified.as_str() < since) {
                continue;
            }
            let Some(mut lines) = store.open(&segment) else { continue };
            finder.read(&mut lines, (stream == Stream::Events).then_some(&segment));
            lines.finish(&mut store.reports);
        }
    }
    finder.resolve().map_err(|candidates| match candidates {
        None => InspectError::Unknown { directory: store.directory(), id: id.to_owned() },
        Some(candidates) => InspectError::Ambiguous { id: id.to_owned(), candidates },
    })
}

struct Finder {
    prefix: String,
    found: BTreeMap<String, Found>,
    more: bool,
}

impl Finder {
    fn read(&mut self, lines: &mut Lines, events: Option<&Segment>) {
        let prefix = self.prefix.clone();
        let search = memmem::Finder::new(&prefix);
        while lines.advance() {
            if search.find(lines.line()).is_none() {
                continue;
            }
            let Some(head) = lines.head().filter(|head| head.session.starts_with(&prefix)) else { continue };
            let heads_the_page = matches!(head.event.as_ref(), "opened" | "reached" | "tls" | "session");
            let Some(found) = self.entry(&head.session) else { continue };
            if let Some(segment) = events.filter(|segment| found.segments.last() != Some(segment)) {
                found.segments.push(segment.clone());
            }
            if heads_the_page && let Some(record) = lines.record() {
                found.take(record, lines.line());
            }
        }
    }

    fn entry(&mut self, id: &str) -> Option<&mut Found> {
        if !self.found.contains_key(id) {
            if self.found.len() >= CANDIDATES && id != self.prefix {
                self.more = true;
                return None;
            }
            self.found.insert(id.to_owned(), Found { id: id.to_owned(), ..Found::default() });
        }
        self.found.get_mut(id)
    }

    /// The session; or the candidates, when there are several; or nothing, when there is none.
    fn resolve(mut self) -> Result<Found, Option<Vec<String>>> {
        if let Some(exactly) = self.found.remove(&self.prefix) {
            return Ok(exactly);
        }
        match self.found.pop_first() {
            None => Err(None),
            Some((_, only)) if self.found.is_empty() => Ok(only),
            Some((first, _)) => {
                let more = self.more.then(|| "…".to_owned());
                Err(Some([first].into_iter().chain(self.found.into_keys()).chain(more).collect()))
            }
        }
    }
}

/// The session that was opened last: when, and its id.
///
/// Segments are read from the one that was written to last, and no further than to where none can hold a younger one.
pub(super) fn newest(store: &mut Store<'_>) -> Result<(String, String), InspectError> {
    let mut segments = Vec::new();
    for stream in [Stream::Events, Stream::Sessions] {
        let dated = |segment| (store.modified(&segment), segment, stream);
        segments.extend(store.segments(stream)?.into_iter().map(dated));
    }
    segments.sort_by(|one, other| other.cmp(one));
    let mut newest: Option<(String, String)> = None;
    for (modified, segment, stream) in segments {
        if newest.as_ref().is_some_and(|(start, _)| modified.is_some_and(|modified| *start > modified)) {
            break;
        }
        let Some(mut lines) = store.open(&segment) else { continue };
        newest = newest.max(newest_of(&mut lines, stream.landmark()));
        lines.finish(&mut store.reports);
    }
    newest.ok_or_else(|| InspectError::Empty(store.directory()))
}

fn newest_of(lines: &mut Lines, kind: &str) -> Option<(String, String)> {
    let quoted = format!("\"{kind}\"");
    let search = memmem::Finder::new(&quoted);
    let mut newest = None;
    while lines.advance() {
        if search.find(lines.line()).is_none() || lines.head().is_none_or(|head| head.event != kind) {
            continue;
        }
        let Some(record) = lines.record() else { continue };
        let start = match record.body {
            Body::Session(summary) => summary.start,
            _ => record.time,
        };
        newest = newest.max(Some((start, record.session)));
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::super::{Which, testing::*};

    const SESSIONS: &str = "sessions-20261123T063000Z-100-1.jsonl";

    fn id(text: &str) -> Which {
        Which::Id(text.to_owned())
    }

    #[test]
    fn prefixes() {
        let sessions = ["ab1", "ab12", "ac99"].map(|id| summary(id, 0, "bob", "complete")).concat();
        let shelf = Shelf::new().with(SESSIONS, sessions);
        for (prefix, found) in [("ab1", "ab1"), ("ab12", "ab12"), ("ac", "ac99"), ("AC", "ac99")] {
            assert!(shelf.show(prefix, TEXT).0.starts_with(&format!("session   {found}\n")), "{prefix}");
        }
        assert_eq!(shelf.error(&id("a")), "several sessions have an id that begins with `a`: ab1, ab12, ac99; give more of it");
        assert_eq!(
            shelf.error(&id("x\x1b")),
            "no session in `DIR` has an id that begins with `x\\x1B`; `poptap sessions list` shows them all"
        );
    }

    #[test]
    fn many_candidates_are_not_all_named_and_hide_no_whole_id() {
        let ids = (0..100).map(|number| format!("s{number}")).collect::<Vec<_>>();
        let shelf = Shelf::new().with(SESSIONS, ids.iter().map(|id| summary(id, 0, "bob", "complete")).collect::<String>());
        assert!(shelf.error(&id("s")).ends_with("s8, s9, …; give more of it"));
        assert!(shelf.show("s99", TEXT).0.starts_with("session   s99\n"));
        assert!(shelf.show("s9", TEXT).0.starts_with("session   s9\n"));
    }

    #[test]
    fn nothing_there() {
        assert_eq!(
            Shelf::new().error(&Which::Last),
            "no session is recorded in `DIR` yet; `poptap run --transcript DIR URL` records there"
        );
    }

    /// What `show --last` prints and reports, when the second segment was written to last at 06:30:03.
    fn last_of(first: &str, second: &str) -> (String, String) {
        let name = "sessions-20261123T062000Z-99-1.jsonl";
        let shelf = Shelf::new().with(SESSIONS, first).with(name, second);
        let file = std::fs::File::options().append(true).open(shelf.path().join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_415_403)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        super::super::show(shelf.path(), &Which::Last, TEXT, &mut out, &mut err).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_file_written_to_later_does_not_hide_a_younger_session() {
        let (text, _) = last_of(&summary("old", 1, "bob", "complete"), &summary("new", 2, "bob", "complete"));
        assert!(text.starts_with("session   new\n"), "{text}");
    }

    #[test]
    fn files_that_are_too_old_to_hold_the_last_session_are_not_read() {
        let (text, reports) = last_of(&summary("new", 9, "bob", "complete"), "torn");
        assert!(text.starts_with("session   new\n"), "{text}");
        assert_eq!(reports, "");
    }
}
