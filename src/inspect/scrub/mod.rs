//! `poptap sessions scrub`: a copy of sessions that may be published.
//!
//! Nothing passes that is not meant to: each record is taken apart field by field, so that a new field has to be decided on here;
//! of texts, only what is known to be harmless stays. `names` says what becomes of the rest, `text` what stays.

mod names;
mod text;

use std::{
    io::Write,
    mem::take,
    path::{Path, PathBuf},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::names::Names;
use super::{
    ExportError, Which, each_record,
    export::output::{Draft, folder},
};
use crate::{
    pop3::{Keyword, identity},
    record::schema::{
        Announced, Anomaly, Body, Closed, Command, Content, Decision, Greeting, Opaque, Opened, Reached, Record, Reply, Sasl,
        Summary, Text, Tls, Unreached, Unsolicited,
    },
};

/// What is to be copied, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Scrub<'a> {
    /// The store.
    pub directory: &'a Path,
    /// The sessions.
    pub which: &'a [Which],
    /// A file, when its name ends in `.jsonl`; else a directory, which becomes a store of its own.
    pub output: &'a Path,
    /// Whether files may be replaced.
    pub force: bool,
}

/// Copies sessions without what names anybody, and returns the files.
///
/// The store is read twice for each session: what is a name must be known before it is replaced. Memory: each name once.
///
/// # Errors
///
/// As [`export`](super::export()).
pub fn scrub(scrub: &Scrub<'_>, err: &mut dyn Write) -> Result<Vec<PathBuf>, ExportError> {
    let mut names = Names::default();
    let mut start = None;
    for which in scrub.which {
        let mut visit = |record: Record| {
            start.get_or_insert_with(|| compact(&record.time));
            learn(&record, &mut names);
        };
        each_record(scrub.directory, which, &mut visit, err)?;
    }
    let mut copy = Copy::new(scrub, &start.unwrap_or_default())?;
    for which in scrub.which {
        let mut written = Ok(());
        let mut visit = |record: Record| {
            if written.is_ok() {
                written = copy.write(&record_without(record, &mut names));
            }
        };
        // What has to be skipped was reported the first time.
        each_record(scrub.directory, which, &mut visit, &mut std::io::sink())?;
        written?;
    }
    copy.publish()
}

/// The files that are being written.
struct Copy {
    events: Draft,
    /// Where summaries go, unless it is the same file.
    sessions: Option<Draft>,
    places: Vec<PathBuf>,
}

impl Copy {
    fn new(scrub: &Scrub<'_>, start: &str) -> Result<Self, ExportError> {
        if scrub.output.extension().is_some_and(|extension| extension == "jsonl") {
            let events = Draft::new(scrub.output, scrub.force)?;
            return Ok(Self { events, sessions: None, places: vec![scrub.output.to_owned()] });
        }
        folder(scrub.output)?;
        let places = ["events", "sessions"].map(|stream| scrub.output.join(format!("{stream}-{start}-1-1.jsonl")));
        let [events, sessions] = places.each_ref().map(|place| Draft::new(place, scrub.force));
        Ok(Self { events: events?, sessions: Some(sessions?), places: places.to_vec() })
    }

    fn write(&mut self, record: &Record) -> Result<(), ExportError> {
        let sessions = self.sessions.as_mut().filter(|_| matches!(record.body, Body::Session(_)));
        let out = sessions.unwrap_or(&mut self.events);
        serde_json::to_writer(&mut *out, record).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(())
    }

    fn publish(self) -> Result<Vec<PathBuf>, ExportError> {
        self.events.publish()?;
        self.sessions.map_or(Ok(()), Draft::publish)?;
        Ok(self.places)
    }
}

/// A time as it stands in the names of segments.
fn compact(time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or_default();
    seconds.chars().filter(char::is_ascii_alphanumeric).collect::<String>() + "Z"
}

/// Takes note of the names in a record.
fn learn(record: &Record, names: &mut Names) {
    let mut learn = |name: &Option<String>| names.learn(name.as_deref().unwrap_or_default().as_bytes());
    match &record.body {
        Body::Opened(opened) => learn(&Some(opened.upstream.clone())),
        Body::Unreached(unreached) => learn(&Some(unreached.upstream.clone())),
        Body::Reached(reached) => {
            for name in reached.resting.iter().chain([&reached.upstream]) {
                learn(&Some(name.clone()));
            }
        }
        Body::Decision(decision) if decision.action == "route" => {
            let servers = decision.tag.iter().flat_map(|tag| tag.split(','));
            servers.for_each(|name| learn(&Some(name.to_owned())));
        }
        Body::Tls(tls) => [&tls.sni, &tls.subject, &tls.issuer].into_iter().for_each(learn),
        Body::Command(command) => learn(&command.user),
        Body::Sasl(sasl) => learn(&sasl.user),
        Body::Session(summary) => [&summary.user, &Some(summary.upstream.clone())].into_iter().for_each(learn),
        Body::Content(content) if content.keyword == "UIDL" => {
            let uids = content.listing.iter().filter_map(|line| line.split_once(' '));
            uids.for_each(|(_, uid)| names.learn(uid.as_bytes()));
        }
        _ => {}
    }
}

/// The record without what names anybody.
fn record_without(record: Record, names: &mut Names) -> Record {
    let Record { v, session, time, at_us, body } = record;
    let is_ours = session.bytes().all(|octet| octet.is_ascii_digit() || octet.is_ascii_lowercase()) && session.len() <= 16;
    let session = if is_ours { session } else { text::name(&session, names) };
    Record { v, session, time: moment(&time), at_us, body: body_without(body, names) }
}

fn body_without(body: Body, names: &mut Names) -> Body {
    match body {
        Body::Opened(opened) => Body::Opened(opened_without(opened, names)),
        Body::Unreached(Unreached { upstream, reason, detail }) => {
            let upstream = upstream_without(&upstream, names);
            Body::Unreached(Unreached { upstream, reason, detail: text::sentence(&detail, names) })
        }
        Body::Reached(Reached { upstream, resting }) => {
            let resting = resting.iter().map(|name| upstream_without(name, names)).collect();
            Body::Reached(Reached { upstream: upstream_without(&upstream, names), resting })
        }
        Body::Tls(tls) => Body::Tls(tls_without(tls, names)),
        Body::Greeting(Greeting { status, line }) => Body::Greeting(Greeting { status, line: said(line, names) }),
        Body::Command(command) => Body::Command(command_without(command, names)),
        Body::Sasl(sasl) => Body::Sasl(sasl_without(sasl, names)),
        Body::Reply(reply) => Body::Reply(reply_without(reply, names)),
        Body::Content(content) => Body::Content(content_without(content, names)),
        Body::Unsolicited(Unsolicited { status, line }) => Body::Unsolicited(Unsolicited { status, line: said(line, names) }),
        Body::Decision(decision) => Body::Decision(decision_without(decision, names)),
        Body::Opaque(Opaque { reason, explanation, dropped_replies }) => {
            Body::Opaque(Opaque { reason, explanation: text::sentence(&explanation, names), dropped_replies })
        }
        Body::Anomaly(Anomaly { id, explanation, fault, offset, n }) => {
            Body::Anomaly(Anomaly { id, explanation: text::sentence(&explanation, names), fault, offset, n })
        }
        Body::Closed(closed) => Body::Closed(closed_without(closed, names)),
        Body::Session(summary) => Body::Session(Box::new(summary_without(*summary, names))),
        // Numbers, and words of ours.
        Body::ClientData(data) => Body::ClientData(data),
        Body::Gap(gap) => Body::Gap(gap),
    }
}

fn opened_without(opened: Opened, names: &mut Names) -> Opened {
    let Opened { client, listener, destination, upstream, proxied_by, announced, credentials_revealed: _ } = opened;
    Opened {
        client: names.address(&client),
        listener: names.address(&listener),
        destination: destination.map(|destination| names.address(&destination)),
        upstream: upstream_without(&upstream, names),
        proxied_by: proxied_by.map(|address| names.address(&address)),
        announced: announced.map(|said| Box::new(announced_without(*said, names))),
        // They are revealed no longer.
        credentials_revealed: false,
    }
}

/// What TLS is called comes from somebody else's program, but is no name of anybody's.
fn announced_without(said: Announced, names: &mut Names) -> Announced {
    let Announced { header, anonymous, destination, tls_version, tls_cipher, tls_name, sni, alpn } = said;
    let destination = destination.map(|address| names.address(&address));
    let [tls_name, sni, alpn] = [tls_name, sni, alpn].map(|name| name.map(|name| text::name(&name, names)));
    let is_label =
        |label: &String| label.len() <= 64 && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet));
    let [tls_version, tls_cipher] = [tls_version, tls_cipher].map(|label| label.filter(is_label));
    Announced { header, anonymous, destination, tls_version, tls_cipher, tls_name, sni, alpn }
}

fn upstream_without(upstream: &str, names: &mut Names) -> String {
    match upstream.split_once("://") {
        Some((scheme @ ("pop3" | "pop3s" | "pop3+stls"), host)) => format!("{scheme}://{}", names.address(host)),
        _ => names.address(upstream),
    }
}

fn tls_without(tls: Tls, names: &mut Names) -> Tls {
    let Tls { hop, mode, version, cipher, offered, alpn, sni, trust, accept, subject, issuer, not_after, fingerprint } = tls;
    let alpn = alpn.iter().map(|name| text::name(name, names)).collect();
    let [sni, fingerprint] = [sni, fingerprint].map(|name| name.map(|name| text::name(&name, names)));
    let [subject, issuer] = [subject, issuer].map(|name| name.map(|name| text::distinguished(&name, names)));
    // To the second, it would find the certificate in public logs.
    let not_after = not_after.map(|time| moment(&time)).and_then(|time| Some(format!("{}T00:00:00Z", time.get(..10)?)));
    Tls { hop, mode, version, cipher, offered, alpn, sni, trust, accept, subject, issuer, not_after, fingerprint }
}

fn command_without(command: Command, names: &mut Names) -> Command {
    let Command { n, keyword, mut line, mechanism, user, forwarded, own } = command;
    if keyword == "PASS" && line.redacted.is_none() && line.text.is_some() {
        (line.text, line.redacted) = (Some("PASS".to_owned()), Some("secret".to_owned()));
    }
    let line = with_text(line, names, text::command);
    Command { n, keyword: known(&keyword), line, mechanism: mechanism_of(mechanism), user: user_of(user, names), forwarded, own }
}

fn sasl_without(sasl: Sasl, names: &mut Names) -> Sasl {
    let Sasl { from, auth, n, octets, offset, user, cancel, revealed: _ } = sasl;
    Sasl { from, auth, n, octets, offset, user: user_of(user, names), cancel, revealed: None }
}

fn reply_without(reply: Reply, names: &mut Names) -> Reply {
    let Reply { n, keyword, status, line, latency_us, multi_line, local } = reply;
    let line = if keyword == "UIDL" && !multi_line && status == crate::record::schema::StatusWord::Ok {
        with_text(line, names, text::uidl)
    } else {
        said(line, names)
    };
    Reply { n, keyword: known(&keyword), status, line, latency_us, multi_line, local }
}

fn content_without(content: Content, names: &mut Names) -> Content {
    let Content { n, keyword, octets, size, header_size, lines, sha256: _, complete, total_us, listing, policy, kept: _ } =
        content;
    let line = |line: String| match line.as_str() {
        "[withheld]" => line,
        _ if keyword == "UIDL" => text::uidl(&line, names),
        _ => text::server(&line, names),
    };
    let listing = listing.into_iter().map(line).collect();
    let policy = policy.map(|_| "none".to_owned());
    let keyword = known(&keyword);
    let (sha256, kept) = (None, Vec::new());
    Content { n, keyword, octets, size, header_size, lines, sha256, complete, total_us, listing, policy, kept }
}

fn decision_without(decision: Decision, names: &mut Names) -> Decision {
    let Decision { n, action, rule, enforced, tag, line, again } = decision;
    let line =
        line.map(|line| if line.starts_with(['+', '-']) { text::server(&line, names) } else { text::command(&line, names) });
    // A tag is a word of the rule's author; where a user was led, it names servers.
    let servers = |tag: String| tag.split(',').map(|name| upstream_without(name, names)).collect::<Vec<_>>().join(",");
    let tag = if action == "route" { tag.map(servers) } else { tag };
    Decision { n, action, rule, enforced, tag, line, again }
}

fn closed_without(mut closed: Closed, names: &mut Names) -> Closed {
    let Closed { by: _, reason: _, detail, client_octets: _, upstream_octets: _, client_undelivered: _, upstream_undelivered: _ } =
        &mut closed;
    *detail = take(detail).map(|detail| text::sentence(&detail, names));
    closed
}

fn summary_without(mut summary: Summary, names: &mut Names) -> Summary {
    // Without dots: whoever adds a field has to say here what becomes of it.
    let Summary {
        start,
        duration_us: _,
        verbs: _,
        anomalies: _,
        client,
        listener,
        destination,
        upstream,
        proxied_by,
        user,
        logged_in: _,
        mechanism,
        login_failures: _,
        client_tls: _,
        upstream_tls: _,
        commands: _,
        errors: _,
        messages: _,
        message_octets: _,
        deleted: _,
        shielded: _,
        client_octets: _,
        upstream_octets: _,
        client_undelivered: _,
        upstream_undelivered: _,
        opaque: _,
        rules: _,
        rules_dry: _,
        events_lost: _,
        credentials_revealed,
        closed_by: _,
        reason: _,
        verdict,
    } = &mut summary;
    *start = moment(start);
    *client = names.address(client);
    *listener = names.address(listener);
    *destination = take(destination).map(|destination| names.address(&destination));
    *upstream = upstream_without(upstream, names);
    *proxied_by = take(proxied_by).map(|address| names.address(&address));
    *user = user_of(take(user), names);
    *mechanism = mechanism_of(take(mechanism));
    *verdict = text::sentence(verdict, names);
    *credentials_revealed = false;
    summary
}

fn said(line: Text, names: &mut Names) -> Text {
    with_text(line, names, text::server)
}

fn with_text(line: Text, names: &mut Names, change: impl FnOnce(&str, &mut Names) -> String) -> Text {
    let Text { text, redacted, octets, offset, line_end, cut } = line;
    Text { text: text.map(|text| change(&text, names)), redacted, octets, offset, line_end, cut }
}

fn user_of(user: Option<String>, names: &mut Names) -> Option<String> {
    user.map(|user| text::name(&user, names))
}

fn mechanism_of(mechanism: Option<String>) -> Option<String> {
    let known = |word: String| match word.as_str() {
        "USER" | "APOP" => Some(word),
        _ => identity::mechanism(word.as_bytes()).map(str::to_owned),
    };
    mechanism.and_then(known)
}

fn known(keyword: &str) -> String {
    Keyword::parse(keyword.as_bytes()).name().to_owned()
}

/// A time, if it is one.
fn moment(time: &str) -> String {
    if OffsetDateTime::parse(time, &Rfc3339).is_ok() { time.to_owned() } else { "1970-01-01T00:00:00.000000Z".to_owned() }
}

#[cfg(test)]
mod tests;
