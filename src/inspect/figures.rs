//! The figures of `sessions stats` as text.

use std::collections::BTreeMap;

use super::{
    counts::Top,
    human,
    paint::{Line, Look},
    stats::{Count, Told, VerbTold},
};
use crate::record::verbs::{CLASSES, end_of};

/// All of them, in sections with an empty line between two; sections that say nothing are left out.
pub(super) fn lines(told: &Told) -> Vec<Line> {
    let sections = [
        totals(told),
        versions(told),
        verbs(&told.verbs),
        names("USERS", "user", &told.users),
        names("CLIENTS", "client", &told.clients),
        names("UPSTREAMS", "upstream", &told.upstreams),
        begun(told),
        rules(&told.rules),
    ];
    let mut lines: Vec<Line> = Vec::new();
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(section);
    }
    lines
}

fn heading(text: &str) -> Line {
    Line::new(Look::Strong, text)
}

fn figure(name: &str, value: &str) -> Line {
    Line::new(Look::Strong, &format!("{name:22}")).with(Look::Plain, value)
}

fn row(number: u64, name: &str) -> Line {
    Line::new(Look::Plain, &format!("{number:>10}  {name}"))
}

fn totals(told: &Told) -> Vec<Line> {
    let totals = &told.totals;
    let numbers = [
        ("sessions", totals.sessions),
        ("logged in", totals.logged_in),
        ("… in plain text", totals.plain_logins),
        ("… plain to the server", totals.plain_upstream_logins),
        ("logins refused", totals.login_failures),
        ("commands", totals.commands),
        ("errors", totals.errors),
        ("messages", totals.messages),
    ];
    let octets = [
        ("octets of messages", totals.message_octets),
        ("octets of clients", totals.client_octets),
        ("octets of servers", totals.upstream_octets),
    ];
    let numbers = numbers.map(|(name, value)| figure(name, &format!(" {value}")));
    let octets = octets.map(|(name, value)| figure(name, &format!(" {value} ({})", human::octets(value))));
    numbers.into_iter().chain(octets).collect()
}

fn versions(told: &Told) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, versions) in [("TLS OF CLIENTS", &told.client_tls), ("TLS OF SERVERS", &told.upstream_tls)] {
        if !versions.is_empty() {
            lines.push(heading(&format!("{:>10}  {name}", "SESSIONS")));
            lines.extend(versions.iter().map(|(version, &sessions)| row(sessions, version)));
        }
    }
    lines
}

fn verbs(verbs: &[VerbTold]) -> Vec<Line> {
    if verbs.is_empty() {
        return Vec::new();
    }
    let titles = format!(
        "{:8} {:>12} {:>10} {:>8}  {:>9}  {:>9}  {:>9}",
        "COMMAND", "COUNT", "ERRORS", "RATE", "50 % IN", "90 % IN", "99 % IN"
    );
    let line = |verb: &VerbTold| {
        let VerbTold { keyword, count, errors, error_rate, .. } = verb;
        let [half, most, nearly] = [verb.p50_us, verb.p90_us, verb.p99_us].map(latency);
        let rate = format!("{:.1} %", error_rate * 100.0);
        Line::new(Look::Plain, &format!("{keyword:8} {count:>12} {errors:>10} {rate:>8}  {half:>9}  {most:>9}  {nearly:>9}"))
    };
    std::iter::once(heading(&titles)).chain(verbs.iter().map(line)).collect()
}

/// Where a class of latency ends.
fn latency(end_us: Option<u64>) -> String {
    match end_us {
        None => "-".to_owned(),
        Some(end_us) if end_us >= end_of(CLASSES - 1) => "over 67 s".to_owned(),
        Some(end_us @ ..1000) => format!("{end_us} µs"),
        Some(end_us) => human::duration(end_us),
    }
}

fn names(title: &str, noun: &str, top: &Top) -> Vec<Line> {
    if top.first.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![heading(&format!("{:>10}  {title}", "SESSIONS"))];
    lines.extend(top.first.iter().map(|named| row(named.sessions, &named.name)));
    if top.others > 0 {
        let more = top.distinct.map(|distinct| (distinct - top.first.len()) as u64);
        let others = more
            .map_or_else(|| format!("(more {noun}s than are counted)"), |more| format!("({} more)", human::plural(more, noun)));
        lines.push(Line::new(Look::Dim, &format!("{:>10}  {others}", top.others)));
    }
    if top.short_by > 0 {
        lines.push(Line::new(Look::Dim, &format!("{:>10}  (each of them may have up to {} more)", "", top.short_by)));
    }
    lines
}

fn begun(told: &Told) -> Vec<Line> {
    if told.begun.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![heading(&format!("{:>10}  BEGUN (UTC)", "SESSIONS"))];
    if told.begun_earlier > 0 {
        lines.push(row(told.begun_earlier, "(earlier)"));
    }
    let span = |span: &str| span.split_once('T').map_or_else(|| span.to_owned(), |(day, hour)| format!("{day} {hour}:00"));
    lines.extend(told.begun.iter().map(|(begun, &sessions)| row(sessions, &span(begun))));
    lines
}

fn rules(rules: &BTreeMap<String, Count>) -> Vec<Line> {
    if rules.is_empty() {
        return Vec::new();
    }
    let titles = format!("{:>10} {:>10} {:>10}  RULE", "FIRED", "WOULD HAVE", "SESSIONS");
    let line = |(rule, count): (&String, &Count)| {
        let Count { fired, would_have_fired, sessions } = count;
        Line::new(Look::Plain, &format!("{fired:>10} {would_have_fired:>10} {sessions:>10}  {rule}"))
    };
    std::iter::once(heading(&titles)).chain(rules.iter().map(line)).collect()
}
