//! `poptap sessions stats`: the sessions summed up, from their summaries alone.

use std::{collections::BTreeMap, io::Write, path::Path};

use memchr::memmem;
use serde::Serialize;

use super::{
    InspectError, View,
    paint::{Line, Look, harmless},
    store::{Store, Stream},
    view::finish,
};
use crate::record::schema::{Body, Summary};

/// Rules that are told by name, at most.
const RULES: usize = 10_000;

/// What the summaries add up to.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Stats {
    sessions: u64,
    /// Sessions in which somebody logged in.
    logged_in: u64,
    login_failures: u64,
    commands: u64,
    errors: u64,
    messages: u64,
    message_octets: u64,
    rules: BTreeMap<String, Count>,
}

/// What one rule did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Count {
    /// How often it decided.
    fired: u64,
    /// How often it would have, in a dry run.
    would_have_fired: u64,
    /// Sessions with either.
    sessions: u64,
}

/// Sums up the sessions of the store in `directory` that began at `since` (a time of the transcript) or later.
///
/// Reads the summaries alone, whether compressed or not; memory does not grow with the store. What had to be skipped is
/// reported on `err`. Sessions that are still running have no summary, and do not count.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn stats(
    directory: &Path,
    since: Option<&str>,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = sum(&mut store, since).and_then(|stats| write(&stats, view, out));
    finish(&store, result, out, err)
}

fn sum(store: &mut Store<'_>, since: Option<&str>) -> Result<Stats, InspectError> {
    let (mut stats, search) = (Stats::default(), memmem::Finder::new("\"session\""));
    for segment in store.segments(Stream::Sessions)? {
        if since.zip(store.modified(&segment)).is_some_and(|(since, modified)| modified.as_str() < since) {
            continue;
        }
        let Some(mut lines) = store.open(&segment) else { continue };
        while lines.advance() {
            if search.find(lines.line()).is_none() || lines.head().is_none_or(|head| head.event != "session") {
                continue;
            }
            if let Some(Body::Session(summary)) = lines.record().map(|record| record.body)
                && since.is_none_or(|since| summary.start.as_str() >= since)
            {
                stats.add(&summary);
            }
        }
        lines.finish(&mut store.reports);
    }
    Ok(stats)
}

impl Stats {
    fn add(&mut self, summary: &Summary) {
        self.sessions += 1;
        self.logged_in += u64::from(summary.logged_in);
        self.login_failures += summary.login_failures;
        self.commands += summary.commands;
        self.errors += summary.errors;
        self.messages += summary.messages;
        self.message_octets += summary.message_octets;
        for (rule, fired) in &summary.rules {
            self.count(rule, |count| count.fired += fired);
        }
        for (rule, times) in &summary.rules_dry {
            self.count(rule, |count| count.would_have_fired += times);
        }
        let either = summary.rules.keys().chain(summary.rules_dry.keys().filter(|rule| !summary.rules.contains_key(*rule)));
        either.for_each(|rule| self.count(rule, |count| count.sessions += 1));
    }

    fn count(&mut self, rule: &str, change: impl FnOnce(&mut Count)) {
        if let Some(count) = self.rules.get_mut(rule) {
            change(count);
        } else if self.rules.len() < RULES {
            change(self.rules.entry(rule.to_owned()).or_default());
        }
    }
}

fn write(stats: &Stats, view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    if view.json {
        let text = serde_json::to_string(stats).map_err(std::io::Error::from)?;
        return Ok(writeln!(out, "{text}")?);
    }
    let mut lines: Vec<Line> = [
        ("sessions", stats.sessions),
        ("logged in", stats.logged_in),
        ("logins refused", stats.login_failures),
        ("commands", stats.commands),
        ("errors", stats.errors),
        ("messages", stats.messages),
        ("octets of messages", stats.message_octets),
    ]
    .map(|(name, value)| Line::new(Look::Strong, &format!("{name:20}")).with(Look::Plain, &value.to_string()))
    .into();
    if !stats.rules.is_empty() {
        let heading = format!("{:>10} {:>10} {:>10}  RULE", "FIRED", "WOULD HAVE", "SESSIONS");
        lines.extend([Line::default(), Line::new(Look::Strong, &heading)]);
    }
    for (rule, count) in &stats.rules {
        let Count { fired, would_have_fired, sessions } = count;
        lines.push(Line::new(Look::Plain, &format!("{fired:>10} {would_have_fired:>10} {sessions:>10}  {}", harmless(rule))));
    }
    Ok(lines.iter().try_for_each(|line| line.write(out, view.colour))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &[(&str, u64)], dry: &[(&str, u64)]) -> Summary {
        let counts = |counts: &[(&str, u64)]| counts.iter().map(|&(rule, count)| (rule.to_owned(), count)).collect();
        Summary { logged_in: true, commands: 5, rules: counts(rules), rules_dry: counts(dry), ..Summary::default() }
    }

    #[test]
    fn rules_are_summed_up() {
        let mut stats = Stats::default();
        stats.add(&of(&[("keep", 2)], &[("large", 1)]));
        stats.add(&of(&[("keep", 1)], &[("keep", 4)]));
        stats.add(&of(&[], &[]));
        assert_eq!((stats.sessions, stats.logged_in, stats.commands), (3, 3, 15));
        assert_eq!(stats.rules["keep"], Count { fired: 3, would_have_fired: 4, sessions: 2 });
        assert_eq!(stats.rules["large"], Count { fired: 0, would_have_fired: 1, sessions: 1 });
        let mut text = Vec::new();
        write(&stats, View::default(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("         3          4          2  keep\n"), "{text}");
    }
}
