//! What an expression says of a session and its exchanges.

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr};

use serde::Deserialize;

use super::{
    Field,
    parse::{Check, Comparison, Node, Test},
};
use crate::record::schema::{Opened, Summary, VERSION};

/// What is known of a session. Read from the line of its summary, or of its opening.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Facts<'a> {
    v: u32,
    /// The kind of the line.
    #[serde(borrow)]
    pub(in crate::inspect) event: Cow<'a, str>,
    /// Its id.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    #[serde(borrow)]
    start: Cow<'a, str>,
    /// Of the record: when the session was opened, where there is no summary.
    #[serde(borrow)]
    time: Cow<'a, str>,
    duration_us: u64,
    #[serde(borrow)]
    client: Cow<'a, str>,
    #[serde(borrow)]
    listener: Cow<'a, str>,
    #[serde(borrow)]
    destination: Option<Cow<'a, str>>,
    #[serde(borrow)]
    upstream: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::inspect) user: Option<Cow<'a, str>>,
    pub(in crate::inspect) logged_in: bool,
    #[serde(borrow)]
    pub(in crate::inspect) mechanism: Option<Cow<'a, str>>,
    login_failures: u64,
    #[serde(borrow)]
    pub(in crate::inspect) client_tls: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(in crate::inspect) upstream_tls: Option<Cow<'a, str>>,
    commands: u64,
    errors: u64,
    messages: u64,
    message_octets: u64,
    deleted: u64,
    client_octets: u64,
    upstream_octets: u64,
    #[serde(borrow)]
    pub(in crate::inspect) anomalies: BTreeMap<Cow<'a, str>, u64>,
    #[serde(borrow)]
    opaque: Option<Cow<'a, str>>,
    #[serde(borrow)]
    rules: BTreeMap<Cow<'a, str>, u64>,
    #[serde(borrow)]
    rules_dry: BTreeMap<Cow<'a, str>, u64>,
    events_lost: u64,
    credentials_revealed: bool,
    /// Empty where there is no summary.
    #[serde(borrow)]
    closed_by: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    verdict: Cow<'a, str>,
}

/// One command and its reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange<'a> {
    /// The command's number in its session.
    pub n: u64,
    /// Its keyword.
    pub verb: &'a str,
    /// The line as it is recorded; `None` where it is withheld.
    pub line: Option<&'a str>,
    /// The reply's status; empty where there is no reply.
    pub status: &'a str,
    /// The reply's first line as it is recorded.
    pub reply: Option<&'a str>,
    /// Microseconds from the command to the reply.
    pub latency_us: Option<u64>,
    /// Octets of the reply's body.
    pub size: Option<u64>,
}

/// What is known of the exchange that is asked about.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    /// Nothing yet.
    Unknown,
    /// The command, and nothing of its reply.
    Command(&'a Exchange<'a>),
    /// All but the size of the reply's body.
    AllButSize(&'a Exchange<'a>),
    /// This; or that there is none.
    Exchange(Option<&'a Exchange<'a>>),
}

impl<'a> Facts<'a> {
    /// From a summary.
    #[must_use]
    pub fn of_summary(session: &'a str, summary: &'a Summary) -> Self {
        let names =
            |counts: &'a BTreeMap<String, u64>| counts.iter().map(|(name, count)| (name.as_str().into(), *count)).collect();
        let text = |text: &'a Option<String>| text.as_deref().map(Cow::Borrowed);
        Self {
            v: VERSION,
            event: "session".into(),
            session: session.into(),
            start: summary.start.as_str().into(),
            time: Cow::default(),
            duration_us: summary.duration_us,
            client: summary.client.as_str().into(),
            listener: summary.listener.as_str().into(),
            destination: text(&summary.destination),
            upstream: summary.upstream.as_str().into(),
            user: text(&summary.user),
            logged_in: summary.logged_in,
            mechanism: text(&summary.mechanism),
            login_failures: summary.login_failures,
            client_tls: text(&summary.client_tls),
            upstream_tls: text(&summary.upstream_tls),
            commands: summary.commands,
            errors: summary.errors,
            messages: summary.messages,
            message_octets: summary.message_octets,
            deleted: summary.deleted,
            client_octets: summary.client_octets,
            upstream_octets: summary.upstream_octets,
            anomalies: names(&summary.anomalies),
            opaque: text(&summary.opaque),
            rules: names(&summary.rules),
            rules_dry: names(&summary.rules_dry),
            events_lost: summary.events_lost,
            credentials_revealed: summary.credentials_revealed,
            closed_by: summary.closed_by.as_str().into(),
            reason: summary.reason.as_str().into(),
            verdict: summary.verdict.as_str().into(),
        }
    }

    /// Of a session that is running, opened at `time`.
    #[must_use]
    pub fn of_opened(session: &'a str, time: &'a str, opened: &'a Opened) -> Self {
        Self {
            v: VERSION,
            event: "opened".into(),
            session: session.into(),
            time: time.into(),
            client: opened.client.as_str().into(),
            listener: opened.listener.as_str().into(),
            destination: opened.destination.as_deref().map(Cow::Borrowed),
            upstream: opened.upstream.as_str().into(),
            credentials_revealed: opened.credentials_revealed,
            ..Self::default()
        }
    }

    /// When the session was opened, as the transcript writes it.
    #[must_use]
    pub fn start(&self) -> &str {
        if self.start.is_empty() { &self.time } else { &self.start }
    }

    /// Whether it is known that there was a command.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.commands > 0
    }

    /// Whether the line was one of a version that we know, and tells what each tells.
    pub(in crate::inspect) fn are_whole(&self) -> bool {
        let tells = match &*self.event {
            "session" => !self.start.is_empty() && !self.client.is_empty() && !self.closed_by.is_empty(),
            "opened" => !self.client.is_empty(),
            _ => true,
        };
        self.v == VERSION && !self.session.is_empty() && !self.time.is_empty() && tells
    }

    /// When its line was recorded.
    pub(in crate::inspect) fn recorded(&self) -> &str {
        &self.time
    }

    fn is_running(&self) -> bool {
        self.closed_by.is_empty()
    }

    fn has_failed(&self) -> bool {
        !(self.is_running() || self.logged_in && self.reason == "quit")
    }

    fn value(&self, field: Field) -> Value<'_> {
        match field {
            Field::Session => Value::text(Some(&self.session)),
            Field::Start => Value::text(Some(self.start())),
            Field::Lasted => self.ended(self.duration_us),
            Field::Client => Value::text(Some(&self.client)),
            Field::Listener => Value::text(Some(&self.listener)),
            Field::Destination => Value::text(self.destination.as_deref()),
            Field::Upstream => Value::text(Some(&self.upstream)),
            Field::User => Value::text(self.user.as_deref()),
            Field::LoggedIn => Value::Flag(self.logged_in),
            Field::Mechanism => Value::text(self.mechanism.as_deref()),
            Field::Refused => Value::Number(Some(self.login_failures)),
            Field::TlsClient => Value::text(self.client_tls.as_deref()),
            Field::TlsUpstream => Value::text(self.upstream_tls.as_deref()),
            Field::Commands => self.ended(self.commands),
            Field::Errors => self.ended(self.errors),
            Field::Messages => self.ended(self.messages),
            Field::MessageOctets => self.ended(self.message_octets),
            Field::Deleted => self.ended(self.deleted),
            Field::Octets => self.ended(self.client_octets.saturating_add(self.upstream_octets)),
            Field::OctetsClient => self.ended(self.client_octets),
            Field::OctetsUpstream => self.ended(self.upstream_octets),
            Field::Anomaly => Value::Names(&self.anomalies),
            Field::Opaque => Value::text(self.opaque.as_deref()),
            Field::Rule => Value::Names(&self.rules),
            Field::RuleDry => Value::Names(&self.rules_dry),
            Field::Lost => Value::Number(Some(self.events_lost)),
            Field::Revealed => Value::Flag(self.credentials_revealed),
            Field::Running => Value::Flag(self.is_running()),
            Field::Failed => Value::Flag(self.has_failed()),
            Field::By => Value::text(Some(&self.closed_by)),
            Field::Reason => Value::text(Some(&self.reason)),
            Field::Verdict => Value::text(Some(&self.verdict)),
            _ => Value::Text(None),
        }
    }

    /// A number that stands only when the session is over.
    fn ended(&self, number: u64) -> Value<'_> {
        Value::Number((!self.is_running()).then_some(number))
    }
}

impl Exchange<'_> {
    fn value(&self, field: Field) -> Value<'_> {
        match field {
            Field::Verb => Value::text(Some(self.verb)),
            Field::Line => Value::text(self.line),
            Field::Status => Value::text(Some(self.status)),
            Field::Reply => Value::text(self.reply),
            Field::Latency => Value::Number(self.latency_us),
            Field::Size => Value::Number(self.size),
            Field::N => Value::Number(Some(self.n)),
            _ => Value::Text(None),
        }
    }
}

/// What a field holds.
enum Value<'a> {
    Text(Option<&'a str>),
    Names(&'a BTreeMap<Cow<'a, str>, u64>),
    Number(Option<u64>),
    Flag(bool),
}

impl<'a> Value<'a> {
    fn text(text: Option<&'a str>) -> Self {
        Self::Text(text.filter(|text| !text.is_empty()))
    }
}

impl Node {
    /// Whether it holds; `None` where that depends on what is not known.
    pub(super) fn holds(&self, session: &Facts<'_>, exchange: Known<'_>) -> Option<bool> {
        match self {
            Self::All(nodes) => all(nodes.iter().map(|node| node.holds(session, exchange))),
            Self::Any(nodes) => all(nodes.iter().map(|node| node.holds(session, exchange).map(|holds| !holds))).map(|none| !none),
            Self::Not(node) => node.holds(session, exchange).map(|holds| !holds),
            Self::Test(test) => test.holds(session, exchange),
            Self::Known(holds) => Some(*holds),
        }
    }
}

impl Node {
    /// The expression with all that is known of the session settled.
    pub(super) fn given(&self, session: &Facts<'_>) -> Self {
        if let Some(settled) = self.holds(session, Known::Unknown) {
            return Self::Known(settled);
        }
        let each = |nodes: &[Self]| nodes.iter().map(|node| node.given(session)).collect::<Vec<_>>();
        match self {
            Self::All(nodes) => Self::All(each(nodes).into_iter().filter(|node| !matches!(node, Self::Known(_))).collect()),
            Self::Any(nodes) => Self::Any(each(nodes).into_iter().filter(|node| !matches!(node, Self::Known(_))).collect()),
            Self::Not(node) => Self::Not(Box::new(node.given(session))),
            other => other.clone(),
        }
    }
}

impl Node {
    /// What each test of the session says, in the order of the expression.
    pub(super) fn answers(&self, session: &Facts<'_>, answers: &mut Vec<bool>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.answers(session, answers)),
            Self::Not(node) => node.answers(session, answers),
            Self::Test(test) => answers.extend(test.holds(session, Known::Unknown)),
            Self::Known(_) => {}
        }
    }
}

/// Whether all hold: one that does not settles it, whatever is unknown.
fn all(each: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut sum = Some(true);
    for holds in each {
        match holds {
            Some(false) => return Some(false),
            None => sum = None,
            Some(true) => {}
        }
    }
    sum
}

impl Test {
    fn holds(&self, session: &Facts<'_>, exchange: Known<'_>) -> Option<bool> {
        if self.field.info().scope == super::Scope::Session {
            return Some(self.check.holds(&session.value(self.field)));
        }
        let is_of_command = matches!(self.field, Field::Verb | Field::Line | Field::N);
        match exchange {
            Known::Command(exchange) if is_of_command => Some(self.check.holds(&exchange.value(self.field))),
            Known::AllButSize(exchange) if self.field != Field::Size => Some(self.check.holds(&exchange.value(self.field))),
            Known::Unknown | Known::Command(_) | Known::AllButSize(_) => None,
            Known::Exchange(None) => Some(false),
            Known::Exchange(Some(exchange)) => Some(self.check.holds(&exchange.value(self.field))),
        }
    }
}

impl Check {
    fn holds(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::IsThere, Value::Text(text)) => text.is_some(),
            (Self::IsThere, Value::Names(names)) => !names.is_empty(),
            (Self::IsThere, Value::Number(number)) => number.is_some_and(|number| number > 0),
            (Self::IsThere, Value::Flag(flag)) => *flag,
            (Self::IsNone, Value::Text(text)) => text.is_none(),
            (Self::IsNone, Value::Names(names)) => names.is_empty(),
            (Self::Is(wanted), Value::Text(text)) => text.is_some_and(|text| is_same(text, wanted)),
            (Self::Is(wanted), Value::Names(names)) => names.keys().any(|name| is_same(name, wanted)),
            (Self::Matches(pattern), Value::Text(text)) => text.is_some_and(|text| pattern.is_match(text)),
            (Self::Matches(pattern), Value::Names(names)) => names.keys().any(|name| pattern.is_match(name)),
            (Self::Within(network), Value::Text(Some(text))) => {
                text.parse::<SocketAddr>().is_ok_and(|address| network.contains(&address.ip().to_canonical()))
            }
            (Self::Number(comparison, wanted), Value::Number(Some(number))) => comparison.holds(number, wanted),
            (Self::Time(comparison, wanted), Value::Text(Some(time))) => {
                // A day is equal to all times in it.
                let beginning = time.get(..wanted.len()).unwrap_or(time);
                comparison.holds(&beginning, &wanted.as_str())
            }
            _ => false,
        }
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

impl Comparison {
    fn holds<T: Ord>(self, one: &T, other: &T) -> bool {
        match self {
            Self::Equal => one == other,
            Self::Less => one < other,
            Self::AtMost => one <= other,
            Self::More => one > other,
            Self::AtLeast => one >= other,
        }
    }
}
