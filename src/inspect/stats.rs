//! `poptap sessions stats`: the sessions summed up, from their summaries alone, in memory that does not grow with the store.

use std::{collections::BTreeMap, io::Write, path::Path};

use serde::Serialize;

use super::{
    InspectError, View,
    brief::Brief,
    counts::{Counts, Top},
    figures,
    store::Store,
    view::{finish, write_json},
};
use crate::{
    pop3::Keyword,
    record::{
        rollup::{Second, address},
        verbs::{CLASSES, Verb, end_of},
    },
};

/// Rules that are told by name, at most.
const RULES: usize = 10_000;

/// Days or hours that are told apart, at most; the oldest are told together.
const SPANS: usize = 10_000;

/// How sessions are counted over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// By the day on which they began (UTC).
    #[default]
    Day,
    /// By the hour.
    Hour,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Summing {
    /// Only sessions that began at this time of the transcript or later.
    pub since: Option<String>,
    /// How many users, clients and upstreams are told by name.
    pub top: usize,
    /// How sessions are counted over time.
    pub by: Span,
}

/// What the summaries add up to.
#[derive(Debug, Default)]
struct Sums {
    totals: Totals,
    users: Counts,
    clients: Counts,
    upstreams: Counts,
    client_tls: Counts,
    upstream_tls: Counts,
    verbs: Vec<VerbSum>,
    rules: BTreeMap<String, Count>,
    spans: BTreeMap<String, u64>,
    /// Sessions in spans that were forgotten.
    earlier: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) sessions: u64,
    /// Sessions in which somebody logged in.
    pub(super) logged_in: u64,
    /// Of these, over a client's hop in plain text.
    pub(super) plain_logins: u64,
    /// Of these, over a server's hop in plain text.
    pub(super) plain_upstream_logins: u64,
    pub(super) login_failures: u64,
    pub(super) commands: u64,
    pub(super) errors: u64,
    pub(super) messages: u64,
    pub(super) message_octets: u64,
    pub(super) client_octets: u64,
    pub(super) upstream_octets: u64,
}

/// What one rule did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    /// How often it decided.
    pub(super) fired: u64,
    /// How often it would have, in a dry run.
    pub(super) would_have_fired: u64,
    /// Sessions with either.
    pub(super) sessions: u64,
}

/// The commands with one keyword.
#[derive(Debug)]
struct VerbSum {
    keyword: Keyword,
    count: u64,
    errors: u64,
    latency: [u64; CLASSES],
}

/// The same as it is told.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct VerbTold {
    pub(super) keyword: &'static str,
    pub(super) count: u64,
    pub(super) errors: u64,
    /// Errors to each command, 0 to 1.
    pub(super) error_rate: f64,
    /// Half of the replies came sooner than this, in microseconds: an upper bound, at most twice too large. `None` without replies.
    pub(super) p50_us: Option<u64>,
    /// 90 % of them.
    pub(super) p90_us: Option<u64>,
    /// 99 % of them.
    pub(super) p99_us: Option<u64>,
}

/// All of it, as it is told.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub(super) totals: Totals,
    pub(super) users: Top,
    pub(super) clients: Top,
    pub(super) upstreams: Top,
    pub(super) client_tls: BTreeMap<Box<str>, u64>,
    pub(super) upstream_tls: BTreeMap<Box<str>, u64>,
    /// The most frequent first.
    pub(super) verbs: Vec<VerbTold>,
    pub(super) rules: BTreeMap<String, Count>,
    /// Sessions by the day or hour in which they began.
    pub(super) begun: BTreeMap<String, u64>,
    /// Sessions that began before the first of them.
    pub(super) begun_earlier: u64,
}

/// Sums up the sessions of the store in `directory`.
///
/// Reads the summaries alone, line by line, whether compressed or not. What is held: one line, and counts by name, of which
/// there are 240,000 at most, whatever the store holds. What had to be skipped is reported on `err`. Sessions that are still
/// running have no summary, and do not count.
///
/// # Errors
///
/// When the directory is missing or unreadable, or `out` cannot be written; a closed pipe is no error.
pub fn stats(
    directory: &Path,
    asked: &Summing,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), InspectError> {
    let mut store = Store::new(directory);
    let result = sum(&mut store, asked).and_then(|sums| write(&sums.told(asked.top), view, out));
    finish(&store, result, out, err)
}

fn sum(store: &mut Store<'_>, asked: &Summing) -> Result<Sums, InspectError> {
    let mut sums = Sums::default();
    let since = asked.since.as_deref();
    store.each_summary(
        |store, segment| since.zip(store.modified(segment)).is_none_or(|(since, modified)| modified.as_str() >= since),
        |brief| {
            if since.is_none_or(|since| &*brief.start >= since) {
                sums.add(brief, asked.by);
            }
        },
    )?;
    Ok(sums)
}

fn write(told: &Told, view: View, out: &mut dyn Write) -> Result<(), InspectError> {
    if view.json {
        return write_json(&serde_json::to_vec(told).map_err(std::io::Error::from)?, out);
    }
    Ok(figures::lines(told).iter().try_for_each(|line| line.write(out, view.colour))?)
}

impl Sums {
    fn add(&mut self, brief: &Brief<'_>, by: Span) {
        self.totals.add(brief);
        if let Some(user) = brief.user.as_deref().filter(|_| brief.logged_in) {
            self.users.add(user);
        }
        self.clients.add(&address(&brief.client));
        self.upstreams.add(&brief.upstream);
        self.client_tls.add(brief.client_tls.as_deref().unwrap_or("plain"));
        self.upstream_tls.add(brief.upstream_tls.as_deref().unwrap_or("plain"));
        brief.verbs.iter().for_each(|verb| self.verb(verb));
        self.rules(brief);
        self.span(&brief.start, by);
    }

    fn verb(&mut self, verb: &Verb) {
        let known = self.verbs.iter().position(|sum| sum.keyword == verb.keyword);
        let place = known.unwrap_or_else(|| {
            self.verbs.push(VerbSum { keyword: verb.keyword, count: 0, errors: 0, latency: [0; CLASSES] });
            self.verbs.len() - 1
        });
        let sum = &mut self.verbs[place];
        sum.count += u64::from(verb.count);
        sum.errors += u64::from(verb.errors);
        sum.latency.iter_mut().zip(verb.latency).for_each(|(sum, replies)| *sum += u64::from(replies));
    }

    fn rules(&mut self, brief: &Brief<'_>) {
        for (rule, fired) in &brief.rules {
            self.count(rule, |count| count.fired += fired);
        }
        for (rule, times) in &brief.rules_dry {
            self.count(rule, |count| count.would_have_fired += times);
        }
        let either = brief.rules.keys().chain(brief.rules_dry.keys().filter(|rule| !brief.rules.contains_key(*rule)));
        either.for_each(|rule| self.count(rule, |count| count.sessions += 1));
    }

    fn count(&mut self, rule: &str, change: impl FnOnce(&mut Count)) {
        if let Some(count) = self.rules.get_mut(rule) {
            change(count);
        } else if self.rules.len() < RULES {
            change(self.rules.entry(rule.to_owned()).or_default());
        }
    }

    fn span(&mut self, start: &str, by: Span) {
        let length = match by {
            Span::Day => "2026-11-23".len(),
            Span::Hour => "2026-11-23T06".len(),
        };
        let Some(span) = Second::of(start).and_then(|_| start.get(..length)) else { return };
        if let Some(sessions) = self.spans.get_mut(span) {
            *sessions += 1;
            return;
        }
        self.spans.insert(span.to_owned(), 1);
        if self.spans.len() > SPANS {
            self.earlier += self.spans.pop_first().map_or(0, |(_, sessions)| sessions);
        }
    }

    fn told(mut self, top: usize) -> Told {
        self.verbs.sort_by(|one, other| other.count.cmp(&one.count).then(one.keyword.name().cmp(other.keyword.name())));
        let all = |counts: &Counts| counts.top(usize::MAX).first.into_iter().map(|named| (named.name, named.sessions)).collect();
        Told {
            totals: self.totals,
            users: self.users.top(top),
            clients: self.clients.top(top),
            upstreams: self.upstreams.top(top),
            client_tls: all(&self.client_tls),
            upstream_tls: all(&self.upstream_tls),
            verbs: self.verbs.iter().map(VerbSum::told).collect(),
            rules: self.rules,
            begun: self.spans,
            begun_earlier: self.earlier,
        }
    }
}

impl Totals {
    fn add(&mut self, brief: &Brief<'_>) {
        self.sessions += 1;
        self.logged_in += u64::from(brief.logged_in);
        self.plain_logins += u64::from(brief.logged_in && brief.client_tls.is_none());
        self.plain_upstream_logins += u64::from(brief.logged_in && brief.upstream_tls.is_none());
        for (sum, number) in [
            (&mut self.login_failures, brief.login_failures),
            (&mut self.commands, brief.commands),
            (&mut self.errors, brief.errors),
            (&mut self.messages, brief.messages),
            (&mut self.message_octets, brief.message_octets),
            (&mut self.client_octets, brief.client_octets),
            (&mut self.upstream_octets, brief.upstream_octets),
        ] {
            // A forged summary may say anything.
            *sum = sum.saturating_add(number);
        }
    }
}

impl VerbSum {
    fn told(&self) -> VerbTold {
        let &Self { keyword, count, errors, .. } = self;
        #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let error_rate = if count == 0 { 0.0 } else { errors as f64 / count as f64 };
        let [p50_us, p90_us, p99_us] = [50, 90, 99].map(|percent| self.percentile(percent));
        VerbTold { keyword: keyword.name(), count, errors, error_rate, p50_us, p90_us, p99_us }
    }

    /// Where the class ends in which so many in a hundred replies have come.
    fn percentile(&self, percent: u64) -> Option<u64> {
        let replies: u64 = self.latency.iter().sum();
        let wanted = replies.saturating_mul(percent).div_ceil(100);
        let mut come = 0;
        let class = self.latency.iter().position(|replies| {
            come += replies;
            come >= wanted
        });
        class.filter(|_| replies > 0).map(end_of)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Shelf, summary},
        *,
    };

    const TEN: Summing = Summing { since: None, top: 10, by: Span::Day };

    fn told(shelf: &Shelf, asked: &Summing) -> serde_json::Value {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stats(shelf.path(), asked, View { json: true, ..View::default() }, &mut out, &mut err).unwrap();
        assert_eq!(String::from_utf8(err).unwrap(), "");
        serde_json::from_slice(&out).unwrap()
    }

    fn text(shelf: &Shelf) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stats(shelf.path(), &TEN, View::default(), &mut out, &mut err).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn with(summaries: impl AsRef<[u8]>) -> Shelf {
        Shelf::new().with("sessions-20261123T063000Z-1-1.jsonl", summaries)
    }

    /// A summary with more fields.
    fn more(user: &str, fields: &str) -> String {
        summary("one", 0, user, "complete").replace("\"closed_by\"", &format!("{fields},\"closed_by\""))
    }

    #[test]
    fn rules_are_summed_up() {
        let shelf = with(
            [
                more("bob", r#""rules":{"keep":2},"rules_dry":{"large":1}"#),
                more("bob", r#""rules":{"keep":1},"rules_dry":{"keep":4}"#),
                summary("three", 1, "bob", "complete"),
            ]
            .concat(),
        );
        let sums = told(&shelf, &TEN);
        assert_eq!((&sums["sessions"], &sums["logged_in"], &sums["commands"]), (&3.into(), &3.into(), &18.into()));
        let keep = serde_json::json!({"fired": 3, "would_have_fired": 4, "sessions": 2});
        let large = serde_json::json!({"fired": 0, "would_have_fired": 1, "sessions": 1});
        assert_eq!(sums["rules"], serde_json::json!({"keep": keep, "large": large}));
        let text = text(&shelf);
        assert!(text.contains("         3          4          2  keep\n"), "{text}");
    }

    #[test]
    fn commands_are_summed_up_with_what_their_replies_took() {
        let shelf = with(
            [
                more("bob", r#""verbs":[{"keyword":"RETR","count":60,"errors":1,"latency":[50,9]},{"keyword":"QUIT","count":1,"errors":0,"latency":[]}]"#),
                more("bob", r#""verbs":[{"keyword":"RETR","count":40,"errors":4,"latency":[0,31,9,0,0,1]}]"#),
            ]
            .concat(),
        );
        let sums = told(&shelf, &TEN);
        let expected = serde_json::json!([
            {"keyword": "RETR", "count": 100, "errors": 5, "error_rate": 0.05, "p50_us": 64, "p90_us": 128, "p99_us": 256},
            {"keyword": "QUIT", "count": 1, "errors": 0, "error_rate": 0.0, "p50_us": null, "p90_us": null, "p99_us": null},
        ]);
        assert_eq!(sums["verbs"], expected);
        let text = text(&shelf);
        assert!(text.contains("RETR              100          5    5.0 %      64 µs     128 µs     256 µs\n"), "{text}");
    }

    #[test]
    fn who_and_when_and_over_what() {
        let shelf = with(
            [
                summary("one", 0, "anna", "complete"),
                summary("two", 1, "bob", "complete"),
                summary("three", 2, "anna", "complete").replace("\"upstream_tls\":\"TLSv1.3\"", "\"client_tls\":\"TLSv1.2\""),
                summary("four", 3, "mallory", "refused").replace("\"logged_in\":true", "\"logged_in\":false"),
            ]
            .concat(),
        );
        let sums = told(&shelf, &Summing { top: 1, by: Span::Hour, ..TEN });
        assert_eq!(sums["users"]["top"], serde_json::json!([{"name": "anna", "sessions": 2}]));
        assert_eq!((&sums["users"]["others"], &sums["users"]["distinct"]), (&1.into(), &2.into()));
        assert_eq!(sums["clients"]["top"], serde_json::json!([{"name": "127.0.0.1", "sessions": 4}]));
        assert_eq!(sums["client_tls"], serde_json::json!({"TLSv1.2": 1, "plain": 3}));
        assert_eq!(sums["upstream_tls"], serde_json::json!({"TLSv1.3": 3, "plain": 1}));
        assert_eq!((&sums["plain_logins"], &sums["plain_upstream_logins"]), (&2.into(), &1.into()));
        assert_eq!(sums["begun"], serde_json::json!({"2026-11-23T06": 4}));
        let later = Summing { since: Some("2026-11-23T06:30:02.000000Z".into()), ..TEN };
        assert_eq!((&told(&shelf, &later)["sessions"], &told(&shelf, &later)["begun"]["2026-11-23"]), (&2.into(), &2.into()));
    }

    #[test]
    fn a_large_store_is_summed_line_by_line() {
        let lines: String =
            (0..50_000).map(|number| summary(&format!("s{number}"), number % 60, &format!("u{number}"), "complete")).collect();
        let shelf = with("").with("sessions-20261123T063000Z-1-2.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap());
        let sums = told(&shelf, &Summing { top: 3, ..TEN });
        assert_eq!((&sums["sessions"], &sums["users"]["distinct"]), (&50_000.into(), &serde_json::Value::Null));
        let top = sums["users"]["top"].as_array().unwrap().len() as u64;
        assert_eq!((top, sums["users"]["others"].as_u64().unwrap()), (3, 49_997));
        assert_eq!(sums["users"]["short_by"], 1);
    }

    #[test]
    fn what_a_terminal_is_shown_drives_nothing() {
        let shelf = with(more("\\u001b[2J", r#""rules":{"\u009bx":1}"#).replace("TLSv1.3", "\\u001b"));
        let text = text(&shelf);
        assert!(text.contains("\\x1B[2J") && !text.contains(['\u{1b}', '\u{9b}']), "{text}");
        let mut out = Vec::new();
        stats(shelf.path(), &TEN, View { json: true, ..View::default() }, &mut out, &mut Vec::new()).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains(['\u{1b}', '\u{9b}']));
    }
}
