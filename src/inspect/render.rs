//! One record → its lines of text. The live view and `sessions show` look the same because both come from here.

use super::{
    human,
    paint::{Line, Look},
    pairing::Pairing,
};
use crate::record::schema::{
    Announced, Anomaly, Body, ClientData, Closed, Command, Content, Decision, Gap, Greeting, Hop, Opaque, Opened, Reached,
    Record, Reply, Sasl, Summary, Text, Tls, Unreached, Unsolicited,
};

/// A listing of at most this many lines is shown line by line; a longer one is folded.
const SHORT_LISTING: u64 = 24;

/// A reply that took at least this many microseconds shows it.
const SLOW: u64 = 100_000;

/// One session as a conversation. It remembers only what is outstanding.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    pairing: Pairing,
    latencies: bool,
}

impl Conversation {
    /// One in which every reply shows how long it took, not only those that took long.
    pub(super) fn with_latencies() -> Self {
        Self { latencies: true, ..Self::default() }
    }

    /// The lines of a record, the first with its time in seconds since the session was opened.
    pub(super) fn lines(&mut self, record: &Record, next: Option<&Record>) -> Vec<Line> {
        let number = self.pairing.number(&record.body, next.map(|next| &next.body));
        let mut time = format!("+{}.{:03}", record.at_us / 1_000_000, record.at_us / 1000 % 1000);
        let mut lines = Vec::new();
        for line in body(&record.session, &record.body, number, self.latencies) {
            lines.push(Line::new(Look::Dim, &format!("{time:>8}  ")).then(line));
            time.clear();
        }
        lines
    }
}

/// The lines of what a record says, without its time.
pub(super) fn body(session: &str, body: &Body, number: Option<u64>, latencies: bool) -> Vec<Line> {
    match body {
        Body::Opened(opened) => self::opened(session, opened),
        Body::Unreached(unreached) => vec![self::unreached(unreached)],
        Body::Reached(reached) => vec![self::reached(reached)],
        Body::Tls(tls) => vec![self::tls(tls)],
        Body::Greeting(greeting) => vec![self::greeting(greeting)],
        Body::Command(command) => vec![self::command(command, number)],
        Body::Sasl(sasl) => vec![self::sasl(sasl)],
        Body::Reply(reply) => vec![self::reply(reply, number, latencies)],
        Body::Content(content) => self::content(content, number),
        Body::ClientData(data) => vec![client_data(data)],
        Body::Unsolicited(line) => vec![unsolicited(line)],
        Body::Decision(decision) => vec![self::decision(decision)],
        Body::Opaque(opaque) => vec![self::opaque(opaque)],
        Body::Anomaly(anomaly) => vec![self::anomaly(anomaly)],
        Body::Gap(gap) => vec![self::gap(gap)],
        Body::Closed(closed) => self::closed(closed),
        Body::Session(summary) => vec![verdict(summary)],
    }
}

fn opened(session: &str, opened: &Opened) -> Vec<Line> {
    let Opened { client, listener, destination, upstream, proxied_by, announced: said, credentials_revealed } = opened;
    let via = proxied_by.as_ref().map(|proxy| format!(" → {proxy}")).unwrap_or_default();
    let meant = destination.as_ref().map(|destination| format!(", meant for {destination}")).unwrap_or_default();
    let mut lines = vec![remark(Look::Own, &format!("session {session}: {client}{via} → {listener} → {upstream}{meant}"))];
    lines.extend(said.as_deref().map(|said| remark(Look::Own, &format!("announced by the PROXY protocol: {}", announced(said)))));
    if *credentials_revealed {
        lines.push(alarm(Look::Anomaly, "the passwords of this session are written down; do not share it"));
    }
    lines
}

fn unreached(unreached: &Unreached) -> Line {
    let Unreached { upstream, reason: _, detail } = unreached;
    remark(Look::Anomaly, &format!("{upstream} does not serve: {detail}"))
}

fn reached(reached: &Reached) -> Line {
    let Reached { upstream, resting } = reached;
    let why = if resting.is_empty() {
        String::new()
    } else {
        format!(", since not long ago there was no answer from {}", resting.join(", "))
    };
    remark(Look::Own, &format!("carried to {upstream}{why}"))
}

/// What a proxy said of a client.
pub(super) fn announced(said: &Announced) -> String {
    let mut words = vec![format!("header {}", said.header)];
    words.extend(said.anonymous.then(|| "no client named".to_owned()));
    for (what, value) in [
        ("to", &said.destination),
        ("TLS", &said.tls_version),
        ("cipher", &said.tls_cipher),
        ("certificate", &said.tls_name),
        ("asked for", &said.sni),
        ("ALPN", &said.alpn),
    ] {
        words.extend(value.as_ref().map(|value| format!("{what} {value}")));
    }
    words.join(", ")
}

fn tls(tls: &Tls) -> Line {
    let Tls { mode, version, cipher, .. } = tls;
    let particulars = particulars(tls).into_iter().map(|words| format!("; {words}"));
    let text = format!("TLS with {} ({mode}): {version}, {cipher}{}", whom(tls.hop), particulars.collect::<String>());
    remark(Look::Tls, &text)
}

/// What there is to say of the peer: the name that it asked for, its certificate, and how far it is trusted.
pub(super) fn particulars(tls: &Tls) -> Vec<String> {
    let accepted = (!tls.accept.is_empty()).then(|| tls.accept.join(", "));
    let [offered, protocols] = [&tls.offered, &tls.alpn].map(|names| (!names.is_empty()).then(|| names.join(", ")));
    let trust = tls.trust.clone().filter(|trust| trust == "pin");
    let fields = [
        ("offered", &offered),
        ("protocols", &protocols),
        ("asked for", &tls.sni),
        ("certificate", &tls.subject),
        ("issued by", &tls.issuer),
        ("valid until", &tls.not_after),
        ("trusted by", &trust),
        ("faults accepted:", &accepted),
    ];
    fields.into_iter().filter_map(|(words, field)| Some(format!("{words} {}", field.as_ref()?))).collect()
}

fn greeting(greeting: &Greeting) -> Line {
    said(Hop::Upstream, None, &greeting.line)
}

fn command(command: &Command, number: Option<u64>) -> Line {
    let mut line = said(Hop::Client, number, &command.line);
    // Elsewhere the line itself names the user.
    if let Some(user) = command.user.as_ref().filter(|_| command.keyword == "AUTH") {
        line = aside(line, &format!("user {user}"));
    }
    if !command.forwarded {
        line = aside(line, "not forwarded");
    }
    if command.own {
        line = aside(line, "asked by poptap, not by the client");
    }
    line
}

fn sasl(sasl: &Sasl) -> Line {
    let line = Line::new(look_of(sasl.from), tag(sasl.from));
    let kind = match sasl.from {
        Hop::Client => "response",
        Hop::Upstream => "challenge",
    };
    let line = match &sasl.revealed {
        Some(text) => line.with(look_of(sasl.from), text),
        None if sasl.cancel => line.with(look_of(sasl.from), "*"),
        None => line.with(Look::Dim, &format!("<SASL {kind}, {}>", human::plural(sasl.octets, "octet"))),
    };
    match &sasl.user {
        Some(user) => aside(line, &format!("user {user}")),
        None => line,
    }
}

fn reply(reply: &Reply, number: Option<u64>, latencies: bool) -> Line {
    let mut line = said(Hop::Upstream, number, &reply.line);
    if reply.local {
        line = aside(line, "written by poptap, not by the server");
    }
    if reply.latency_us >= SLOW || latencies && !reply.local {
        line = aside(line, &format!("after {}", latency(reply.latency_us)));
    }
    line
}

/// Microseconds, to a tenth of a millisecond where there are few.
fn latency(microseconds: u64) -> String {
    match microseconds {
        0..10_000 => format!("{}.{} ms", microseconds / 1000, microseconds / 100 % 10),
        _ => human::duration(microseconds),
    }
}

fn content(content: &Content, number: Option<u64>) -> Vec<Line> {
    let whole = content.listing.len() as u64 == content.lines && content.lines <= SHORT_LISTING && content.complete;
    let mut lines = if whole && content.policy.is_none() {
        let lines = content.listing.iter().map(String::as_str).chain(["."]);
        lines.map(|line| numbered(Hop::Upstream, number).with(Look::Server, line)).collect()
    } else {
        vec![folded(content, number)]
    };
    lines.extend(content.kept.iter().map(|piece| {
        let place = format!("kept in {} at {}, {}", piece.file, piece.offset, human::plural(piece.length, "octet"));
        Line::new(Look::Dim, "   [").with(Look::Dim, &place).with(Look::Dim, "]")
    }));
    if !content.complete {
        lines.push(alarm(Look::Anomaly, "cut short: the server went away before the end"));
    }
    lines
}

fn folded(content: &Content, number: Option<u64>) -> Line {
    let kind = match content.keyword.as_str() {
        "RETR" => "message",
        "TOP" => "top of a message",
        _ => "listing",
    };
    let digest = content.sha256.as_ref().map(|digest| format!(", sha256 {}…", digest.chars().take(8).collect::<String>()));
    let size = format!("{}, {}", human::plural(content.lines, "line"), human::octets(content.size));
    let text = format!("[{kind}: {size}{}{}]", digest.unwrap_or_default(), beginning(content));
    numbered(Hop::Upstream, number).with(Look::Server, &text)
}

/// The first lines of a listing.
fn beginning(content: &Content) -> String {
    let lines: Vec<&str> = content.listing.iter().take(3).map(String::as_str).collect();
    let more = if lines.len() as u64 == content.lines { "" } else { " | …" };
    if lines.is_empty() { String::new() } else { format!(": {}{more}", lines.join(" | ")) }
}

fn client_data(data: &ClientData) -> Line {
    let line =
        Line::new(Look::Client, tag(Hop::Client)).with(Look::Client, &format!("[message: {}]", human::octets(data.octets)));
    if data.complete { line } else { aside(line, "cut short: the client went away before the end") }
}

fn unsolicited(unsolicited: &Unsolicited) -> Line {
    aside(said(Hop::Upstream, None, &unsolicited.line), "answers nothing")
}

fn decision(decision: &Decision) -> Line {
    let action = decision.action.as_str();
    let (done, would) = DECISIONS.iter().find(|(name, ..)| *name == action).map_or((action, action), |known| (known.1, known.2));
    let what = if decision.enforced { format!("poptap {done}") } else { format!("poptap would {would}, were this no dry run") };
    let command = decision.n.map_or_else(String::new, |n| format!("command {n}: "));
    let often = if decision.again > 0 { format!(", {} more", human::plural(decision.again, "time")) } else { String::new() };
    let line = decision.line.as_ref().or(decision.tag.as_ref()).map_or_else(String::new, |line| format!(": {line}"));
    remark(Look::Own, &format!("{command}{what}{line}{often} (rule {})", decision.rule))
}

/// What a decision did, and what it would have done.
const DECISIONS: [(&str, &str, &str); 11] = [
    ("allow", "lets it pass", "let it pass"),
    ("answer", "answers it instead of the server", "answer it instead of the server"),
    ("rewrite", "sends another line in its place", "send another line in its place"),
    ("shield", "keeps the deletion from the server", "keep the deletion from the server"),
    ("tag", "takes note of it", "take note of it"),
    ("remove-line", "leaves a line out of the server's answer", "leave a line out of the server's answer"),
    ("edit-line", "changes a line of the server's", "change a line of the server's"),
    ("add-line", "adds a line to the server's answer", "add a line to the server's answer"),
    ("route", "leads the login to its server", "lead the login to its server"),
    ("delay", "holds the answer back", "hold the answer back"),
    ("close", "closes the session", "close the session"),
];

fn opaque(opaque: &Opaque) -> Line {
    let dropped = match opaque.dropped_replies {
        0 => String::new(),
        number => format!("; {} of poptap's own could not be placed", human::plural(number, "answer")),
    };
    remark(
        Look::Opaque,
        &format!("opaque from here on: {}; octets still pass, but are not understood{dropped}", opaque.explanation),
    )
}

fn anomaly(anomaly: &Anomaly) -> Line {
    let fault = anomaly.fault.map_or_else(String::new, |hop| format!("{}'s fault: ", whom(hop)));
    let id = &anomaly.id;
    let place = anomaly.offset.map_or_else(String::new, |offset| format!(", at octet {offset}"));
    alarm(Look::Anomaly, &format!("{fault}{} ({id}{place}; see docs/anomalies.md#{id})", anomaly.explanation))
}

fn gap(gap: &Gap) -> Line {
    let why = match gap.reason.as_str() {
        "full" => "the transcript's buffer was full",
        "error" => "the transcript could not be written",
        other => other,
    };
    let [client, upstream, content] = [gap.client_octets, gap.upstream_octets, gap.content_octets].map(human::octets);
    let events = format!("{} ({client} of the client's, {upstream} of the server's)", human::plural(gap.events, "event"));
    let content = format!("{content} of the content that was to be kept");
    let missing = match (gap.events, gap.content_octets) {
        (_, 0) => events,
        (0, _) => content,
        _ => format!("{events} and {content}"),
    };
    alarm(Look::Gap, &format!("missing here, since {why}: {missing}"))
}

fn closed(closed: &Closed) -> Vec<Line> {
    let by = match closed.by.as_str() {
        "client" => "the client",
        "upstream" => "the server",
        other => other,
    };
    let detail = closed.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    let mut lines = vec![remark(Look::Own, &format!("closed by {by} ({}){detail}", closed.reason))];
    lines.extend(undelivered(closed.client_undelivered, closed.upstream_undelivered));
    lines
}

/// What was received and could not be delivered, when there is any.
pub(super) fn undelivered(client: u64, upstream: u64) -> Vec<Line> {
    let lost = [(client, "of the client's never reached the server"), (upstream, "of the server's never reached the client")];
    let lost = lost.into_iter().filter(|(octets, _)| *octets > 0);
    lost.map(|(octets, what)| alarm(Look::Gap, &format!("{} {what}", human::octets(octets)))).collect()
}

/// How a session ended, in words.
pub(super) fn verdict(summary: &Summary) -> Line {
    Line::new(Look::Strong, "== ").with(Look::Strong, &summary.verdict)
}

/// Something of poptap's own.
pub(super) fn remark(look: Look, text: &str) -> Line {
    Line::new(look, "-- ").with(look, text)
}

/// Something that a reader must not overlook.
pub(super) fn alarm(look: Look, text: &str) -> Line {
    Line::new(look, "!! ").with(look, text)
}

/// A line of the client's or the server's, as far as it was kept.
fn said(by: Hop, number: Option<u64>, text: &Text) -> Line {
    let mut line = numbered(by, number);
    if let Some(text) = &text.text {
        line = line.with(look_of(by), text);
    }
    if text.cut && text.redacted.is_none() {
        line = line.with(Look::Dim, &format!("… (the beginning of {})", human::octets(text.octets)));
    }
    if let Some(why) = &text.redacted {
        let blank = if text.text.as_ref().is_some_and(|text| !text.is_empty()) { " " } else { "" };
        line = line.with(Look::Dim, blank).with(Look::Dim, &withheld(why, text));
    }
    match text.line_end.as_deref() {
        None => line,
        Some("lf") => aside(line, "ends in a bare LF"),
        Some("none") => aside(line, "has no line end"),
        Some(other) => aside(line, other),
    }
}

/// What stands in the place of text that is not kept. The octets are those of the whole line.
fn withheld(why: &str, text: &Text) -> String {
    let octets = human::plural(text.octets, "octet");
    match why {
        "secret" => format!("<withheld, {octets}>"),
        "unknown" => format!("<unknown, so withheld, {octets}>"),
        "echo" => format!("<withheld, since it repeats a secret, {octets}>"),
        "user" if text.text.is_some() => "<user name hashed>".to_owned(),
        "user" => format!("<withheld, since it names the user, {octets}>"),
        other => format!("<withheld: {other}, {octets}>"),
    }
}

fn numbered(by: Hop, number: Option<u64>) -> Line {
    let line = Line::new(look_of(by), tag(by));
    match number {
        Some(number) => line.with(Look::Dim, &format!("[{number}] ")),
        None => line,
    }
}

fn aside(line: Line, text: &str) -> Line {
    line.with(Look::Dim, "  (").with(Look::Dim, text).with(Look::Dim, ")")
}

fn tag(by: Hop) -> &'static str {
    match by {
        Hop::Client => "C: ",
        Hop::Upstream => "S: ",
    }
}

fn look_of(by: Hop) -> Look {
    match by {
        Hop::Client => Look::Client,
        Hop::Upstream => Look::Server,
    }
}

fn whom(hop: Hop) -> &'static str {
    match hop {
        Hop::Client => "the client",
        Hop::Upstream => "the server",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    /// The text of one record, without its time.
    fn text(body: &str) -> String {
        let lines = Conversation::default().lines(&record(&line("ab12", 0, body)), None);
        let mut out = Vec::new();
        for line in &lines {
            line.write(&mut out, false).unwrap();
        }
        String::from_utf8(out).unwrap().lines().map(|line| line[10..].to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_kind_of_record_explains_itself() {
        let cases = [
            (
                r#""event":"opened","client":"c","listener":"l","upstream":"u","credentials_revealed":true"#,
                "-- session ab12: c → l → u\n!! the passwords of this session are written down; do not share it",
            ),
            (
                r#""event":"command","n":3,"keyword":"AUTH","text":"AUTH PLAIN","redacted":"secret","octets":40,"offset":0,"mechanism":"PLAIN","user":"bob","forwarded":false"#,
                "C: AUTH PLAIN <withheld, 40 octets>  (user bob)  (not forwarded)",
            ),
            (
                r#""event":"command","n":3,"keyword":"USER","text":"USER user:0011","redacted":"user","octets":40,"offset":0,"forwarded":true,"line_end":"lf""#,
                "C: USER user:0011 <user name hashed>  (ends in a bare LF)",
            ),
            (
                r#""event":"command","n":3,"keyword":"NOOP","text":"NOOP xx","octets":4096,"offset":0,"forwarded":true,"cut":true,"line_end":"none""#,
                "C: NOOP xx… (the beginning of 4.1 kB)  (has no line end)",
            ),
            (
                r#""event":"sasl","from":"client","auth":3,"n":4,"octets":24,"offset":0,"user":"bob""#,
                "C: <SASL response, 24 octets>  (user bob)",
            ),
            (
                r#""event":"tls","hop":"client","mode":"stls","version":"TLSv1.3","cipher":"X","sni":"pop.example.net","subject":"CN=bob""#,
                "-- TLS with the client (stls): TLSv1.3, X; asked for pop.example.net; certificate CN=bob",
            ),
            (
                r#""event":"tls","hop":"upstream","mode":"implicit","version":"TLSv1.2","cipher":"X","trust":"pin","accept":["expired"]"#,
                "-- TLS with the server (implicit): TLSv1.2, X; trusted by pin; faults accepted: expired",
            ),
            (r#""event":"sasl","from":"upstream","auth":3,"octets":4,"offset":0"#, "S: <SASL challenge, 4 octets>"),
            (r#""event":"sasl","from":"client","auth":3,"n":4,"octets":3,"offset":0,"cancel":true"#, "C: *"),
            (r#""event":"sasl","from":"client","auth":3,"n":4,"octets":3,"offset":0,"revealed":"AGJvYg==""#, "C: AGJvYg=="),
            (
                r#""event":"reply","n":1,"keyword":"STLS","status":"-ERR","text":"-ERR no","octets":9,"offset":0,"latency_us":1,"local":true"#,
                "S: -ERR no  (written by poptap, not by the server)",
            ),
            (
                r#""event":"content","n":1,"keyword":"RETR","octets":1,"size":1,"lines":1,"complete":false,"total_us":1,"policy":"none""#,
                "S: [message: 1 line, 1 octet]\n!! cut short: the server went away before the end",
            ),
            (
                r#""event":"content","n":1,"keyword":"LIST","octets":1,"size":40000,"lines":2000,"complete":true,"total_us":1,"listing":["1 2","2 3","3 4"]"#,
                "S: [listing: 2000 lines, 40 kB: 1 2 | 2 3 | 3 4 | …]",
            ),
            (
                r#""event":"client-data","n":1,"octets":1234,"complete":false"#,
                "C: [message: 1.2 kB]  (cut short: the client went away before the end)",
            ),
            (
                r#""event":"unsolicited","status":"?","redacted":"unknown","octets":9,"offset":0"#,
                "S: <unknown, so withheld, 9 octets>  (answers nothing)",
            ),
            (
                r#""event":"decision","action":"edit-line","rule":"apop-strip""#,
                "-- poptap changes a line of the server's (rule apop-strip)",
            ),
            (
                r#""event":"decision","n":2,"action":"answer","rule":"stls-refuse""#,
                "-- command 2: poptap answers it instead of the server (rule stls-refuse)",
            ),
            (
                r#""event":"opaque","reason":"x","explanation":"because","dropped_replies":1"#,
                "-- opaque from here on: because; octets still pass, but are not understood; 1 answer of poptap's own could not be placed",
            ),
            (
                r#""event":"anomaly","id":"tls-on-plain-port","explanation":"it started TLS on a plain port","fault":"client","offset":0"#,
                "!! the client's fault: it started TLS on a plain port (tls-on-plain-port, at octet 0; see docs/anomalies.md#tls-on-plain-port)",
            ),
            (
                r#""event":"gap","reason":"full","events":12,"client_octets":340,"upstream_octets":20000,"content_octets":5"#,
                "!! missing here, since the transcript's buffer was full: 12 events (340 octets of the client's, 20 kB of the server's) and 5 octets of the content that was to be kept",
            ),
            (
                r#""event":"closed","by":"upstream","reason":"eof","detail":"gone","client_octets":1,"upstream_octets":1,"client_undelivered":2,"upstream_undelivered":0"#,
                "-- closed by the server (eof): gone\n!! 2 octets of the client's never reached the server",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(text(body), expected, "{body}");
        }
    }
}
