//! `poptap sessions follow`: a store as it is written, like `tail -f`.

use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    InspectError, Selection, Terminal, View,
    filter::{Exchange, Facts, Filter},
    paint::harmless,
    store::Store,
    tail::Tail,
    view::{finish, write_json},
};
use crate::record::schema::{Body, Hop, Opened, Record};

/// How long the files are left alone between two looks at them.
const PAUSE: Duration = Duration::from_millis(25);
/// How often the directory is read for new segments.
const ROUND: Duration = Duration::from_millis(100);
/// Sessions that are remembered. Beyond that (the ends of some were lost) all are forgotten.
const REMEMBERED: usize = 16_384;
/// Commands of one session that may await their reply.
const OUTSTANDING: usize = 20_000;

/// Shows what is recorded into the store in `directory` from now on, or from the selection's time, until the output is closed.
///
/// Where the filter asks about commands, each is shown with its reply as soon as that is complete; otherwise whole sessions are,
/// from the moment when what is known of them makes it hold. Of a running session only that is known which was recorded: a user
/// from the login on, numbers at its end. What had to be skipped is reported on `err` when it ends.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn follow(
    directory: &Path,
    selection: &Selection,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = watch(&mut store, selection, view, out, err);
    finish(&store, result, out, err)
}

fn watch(
    store: &mut Store<'_>,
    selection: &Selection,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut tail = Tail::new(store, selection.since.as_deref())?;
    let mut watcher = Watcher::new(selection, view, out);
    if !tail.is_live() {
        writeln!(err, "nothing is being recorded into `{}` yet; waiting", harmless(&store.directory().to_string_lossy()))?;
    }
    // What was there before is read for what it tells of the sessions that go on.
    tail.read(&mut |line| watcher.take(line, false))?;
    let mut looked = Instant::now();
    loop {
        if looked.elapsed() >= ROUND {
            looked = Instant::now();
            tail.look(store)?;
        }
        tail.read(&mut |line| watcher.take(line, true))?;
        thread::sleep(PAUSE);
    }
}

/// What is known of the sessions that go on, and where they are shown.
struct Watcher<'a> {
    filter: &'a Filter,
    since: Option<&'a str>,
    output: Output<'a>,
    sessions: HashMap<String, Session>,
}

enum Output<'a> {
    Text(Terminal<&'a mut dyn Write>),
    Json(&'a mut dyn Write),
}

/// One session.
#[derive(Default)]
struct Session {
    opened: Option<(String, Opened)>,
    user: Option<String>,
    mechanism: Option<String>,
    logged_in: bool,
    client_tls: Option<String>,
    upstream_tls: Option<String>,
    anomalies: Vec<String>,
    /// Lines that are held back: its opening, until something of it is shown.
    opening: Option<Held>,
    is_shown: bool,
    outstanding: VecDeque<Waiting>,
}

/// A line that may be shown yet.
struct Held {
    line: Vec<u8>,
    record: Record,
}

/// A command that awaits the end of its reply.
struct Waiting {
    n: u64,
    lines: Vec<Held>,
}

impl<'a> Watcher<'a> {
    fn new(selection: &'a Selection, view: View, out: &'a mut dyn Write) -> Self {
        let output = if view.json { Output::Json(out) } else { Output::Text(Terminal::new(out, view.colour)) };
        Self { filter: &selection.filter, since: selection.since.as_deref(), output, sessions: HashMap::new() }
    }

    /// A line that was recorded; one that is not live is shown only where it is younger than what was asked for.
    fn take(&mut self, line: &[u8], live: bool) -> Result<(), InspectError> {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { return Ok(()) };
        if self.sessions.len() >= REMEMBERED {
            self.sessions.clear();
        }
        let is_wanted = live || self.since.is_some_and(|since| *record.time >= *since);
        let mut session = self.sessions.remove(&record.session).unwrap_or_default();
        session.learn(&record);
        let is_over = matches!(record.body, Body::Session(_));
        let id = record.session.clone();
        if is_wanted {
            self.show(&mut session, Held { line: line.to_vec(), record })?;
        } else if matches!(record.body, Body::Opened(_)) {
            session.opening = Some(Held { line: line.to_vec(), record });
        }
        if !is_over {
            self.sessions.insert(id, session);
        }
        Ok(())
    }

    fn show(&mut self, session: &mut Session, held: Held) -> Result<(), InspectError> {
        if self.filter.is_about_exchanges() {
            return self.show_exchange(session, held);
        }
        let holds = match &held.record.body {
            Body::Session(summary) => self.filter.settled(&Facts::of_summary(&held.record.session, summary)),
            _ => self.filter.settled(&session.facts(&held.record.session)),
        };
        if holds == Some(true) || session.is_shown {
            return self.write(session, &[held]);
        }
        if matches!(held.record.body, Body::Opened(_)) {
            session.opening = Some(held);
        }
        Ok(())
    }

    /// A command with its reply, when it is complete.
    fn show_exchange(&mut self, session: &mut Session, held: Held) -> Result<(), InspectError> {
        let (n, is_last) = match &held.record.body {
            Body::Opened(_) => {
                session.opening = Some(held);
                return Ok(());
            }
            Body::Command(command) if !command.own => {
                let n = command.n;
                // The reply to the oldest is taken for lost.
                if session.outstanding.len() >= OUTSTANDING {
                    session.outstanding.pop_front();
                }
                session.outstanding.push_back(Waiting { n, lines: vec![held] });
                return Ok(());
            }
            Body::Reply(reply) => (reply.n, !reply.multi_line),
            Body::Content(content) => (content.n, true),
            Body::Session(_) if session.is_shown => return self.write(session, &[held]),
            _ => return Ok(()),
        };
        let Some(at) = session.outstanding.iter().position(|waiting| waiting.n == n) else { return Ok(()) };
        session.outstanding[at].lines.push(held);
        let Some(waiting) = is_last.then(|| session.outstanding.remove(at)).flatten() else { return Ok(()) };
        let id = &waiting.lines[0].record.session;
        if self.filter.holds(&session.facts(id), Some(&exchange(&waiting))) {
            self.write(session, &waiting.lines)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, session: &mut Session, lines: &[Held]) -> Result<(), InspectError> {
        session.is_shown = true;
        for held in session.opening.take().iter().chain(lines) {
            match &mut self.output {
                Output::Json(out) => write_json(&held.line, *out)?,
                Output::Text(terminal) => terminal.try_show(&held.record)?,
            }
        }
        match &mut self.output {
            Output::Json(out) => Ok(out.flush()?),
            Output::Text(_) => Ok(()),
        }
    }
}

impl Session {
    fn learn(&mut self, record: &Record) {
        match &record.body {
            Body::Opened(opened) => self.opened = Some((record.time.clone(), opened.clone())),
            Body::Reached(reached) => {
                if let Some((_, opened)) = &mut self.opened {
                    opened.upstream.clone_from(&reached.upstream);
                }
            }
            Body::Tls(tls) if tls.hop == Hop::Client => self.client_tls = Some(tls.version.clone()),
            Body::Tls(tls) => self.upstream_tls = Some(tls.version.clone()),
            Body::Command(command) if !self.logged_in => {
                self.user = command.user.clone().or(self.user.take());
                self.mechanism = mechanism(&command.keyword, command.mechanism.as_ref()).or(self.mechanism.take());
            }
            Body::Sasl(sasl) if !self.logged_in => self.user = sasl.user.clone().or(self.user.take()),
            Body::Reply(reply) => {
                let logs_in = matches!(reply.keyword.as_str(), "PASS" | "APOP" | "AUTH");
                self.logged_in |= logs_in && reply.status.word() == "+OK" && !reply.multi_line;
            }
            Body::Anomaly(anomaly) if !self.anomalies.contains(&anomaly.id) => self.anomalies.push(anomaly.id.clone()),
            _ => {}
        }
    }

    fn facts<'a>(&'a self, id: &'a str) -> Facts<'a> {
        let unknown = const {
            &Opened {
                client: String::new(),
                listener: String::new(),
                destination: None,
                upstream: String::new(),
                proxied_by: None,
                announced: None,
                credentials_revealed: false,
            }
        };
        let (time, opened) = self.opened.as_ref().map_or(("", unknown), |(time, opened)| (time.as_str(), opened));
        let mut facts = Facts::of_opened(id, time, opened);
        facts.user = self.user.as_deref().map(Into::into);
        facts.mechanism = self.mechanism.as_deref().map(Into::into);
        facts.logged_in = self.logged_in;
        facts.client_tls = self.client_tls.as_deref().map(Into::into);
        facts.upstream_tls = self.upstream_tls.as_deref().map(Into::into);
        facts.anomalies = self.anomalies.iter().map(|id| (id.as_str().into(), 1)).collect();
        facts
    }
}

/// How a login is tried, in the words of summaries.
fn mechanism(keyword: &str, sasl: Option<&String>) -> Option<String> {
    match keyword {
        "USER" | "PASS" => Some("USER".to_owned()),
        "APOP" => Some("APOP".to_owned()),
        "AUTH" => sasl.cloned(),
        _ => None,
    }
}

fn exchange(waiting: &Waiting) -> Exchange<'_> {
    let mut exchange = Exchange { n: waiting.n, ..Exchange::default() };
    for held in &waiting.lines {
        match &held.record.body {
            Body::Command(command) => (exchange.verb, exchange.line) = (&command.keyword, command.line.text.as_deref()),
            Body::Reply(reply) => {
                (exchange.status, exchange.reply) = (reply.status.word(), reply.line.text.as_deref());
                exchange.latency_us = Some(reply.latency_us);
            }
            Body::Content(content) => exchange.size = Some(content.size),
            _ => {}
        }
    }
    exchange
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn shown(expression: Option<&str>, lines: &str) -> String {
        let filter = expression.map_or_else(|| Filter::all([]), |text| Filter::parse(text).unwrap());
        let selection = Selection { filter, ..Selection::all() };
        let mut out = Vec::new();
        let mut watcher = Watcher::new(&selection, TEXT, &mut out);
        lines.lines().for_each(|line| watcher.take(line.as_bytes(), true).unwrap());
        drop(watcher);
        String::from_utf8(out).unwrap()
    }

    fn session(id: &str, user: &str) -> String {
        conversation(id).replace("USER bob", &format!("USER {user}\",\"user\":\"{user}")) + &summary(id, 0, user, "complete")
    }

    #[test]
    fn sessions_from_the_moment_when_it_holds() {
        let both = session("aaaaaaaaaaaa", "anna") + &session("bbbbbbbbbbbb", "bob");
        let all = shown(None, &both);
        assert_eq!(all.matches("-- session").count(), 2);
        let text = shown(Some("user = anna"), &both);
        assert!(text.starts_with("  +0.000  -- session aaaaaaaaaaaa"), "{text}");
        assert!(text.contains("C: USER anna") && !text.contains("C: CAPA") && !text.contains("bob"), "{text}");
        assert!(text.ends_with("== complete\n"), "{text}");
    }

    #[test]
    fn commands_with_their_replies() {
        let text = shown(Some("verb = RETR or status = -ERR"), &session("aaaaaaaaaaaa", "anna"));
        let expected = "  +0.000  -- session aaaaaaaaaaaa: 127.0.0.1:50312 → 127.0.0.1:1110 → pop3s://pop.example.net
  +0.401  C: RETR 1
  +0.402  S: +OK 34400 octets
  +0.410  S: [message: 512 lines, 34 kB, sha256 1a2b3c4d…]
             [kept in content-x.bin at 12, 600 octets]
  +0.420  C: <unknown, so withheld, 9 octets>
  +0.421  S: <withheld, since it repeats a secret, 20 octets>
  +1.250  == complete
";
        assert_eq!(text, expected);
    }
}
