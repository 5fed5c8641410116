//! What is left of a session when it is over: its totals, and how it ended, in words.

use std::collections::VecDeque;

use super::{
    schema::{Closed, Hop, Opened, Summary, Tls},
    verbs::Counted,
};
use crate::{
    pop3::{Keyword, Peer, Stage, Status},
    tap::{Action, Decision, OpaqueReason, Ordinal, Violation},
};

/// Attempts to log in that await their answer, at most; older ones go first.
const ATTEMPTS: usize = 64;

/// Rules that are counted by name in one session, at most; further ones are in the events alone.
const RULES: usize = 128;

/// Follows one session and sums it up.
#[derive(Default)]
pub(super) struct Tally {
    totals: Summary,
    verbs: Counted,
    attempts: VecDeque<Attempt>,
    /// The message whose content is passing, or was when the stream ended.
    passing: Option<Passing>,
    opaque: Option<OpaqueReason>,
    violation: Option<Violation>,
    user_refused: bool,
    /// The server's greeting was `-ERR`.
    turned_away: bool,
    /// … or `+OK`.
    greeted: bool,
    quit: Option<Status>,
    /// Microseconds from the opening to the last event.
    last_us: u64,
}

/// Who tries to log in, and how.
struct Attempt {
    n: Ordinal,
    user: Option<String>,
    mechanism: Option<String>,
    cancelled: bool,
}

/// A message that is on its way.
#[derive(Clone, Copy)]
struct Passing {
    number: Option<u64>,
    truncated: bool,
}

impl Tally {
    pub(super) fn new(opened: &Opened, start: String) -> Self {
        let totals = Summary {
            start,
            client: opened.client.clone(),
            listener: opened.listener.clone(),
            destination: opened.destination.clone(),
            upstream: opened.upstream.clone(),
            proxied_by: opened.proxied_by.clone(),
            credentials_revealed: opened.credentials_revealed,
            ..Summary::default()
        };
        Self { totals, ..Self::default() }
    }

    /// Something happened, this long after the opening.
    pub(super) fn at(&mut self, at_us: u64) {
        self.last_us = at_us;
    }

    pub(super) fn tls(&mut self, tls: &Tls) {
        let version = match tls.hop {
            Hop::Client => &mut self.totals.client_tls,
            Hop::Upstream => &mut self.totals.upstream_tls,
        };
        *version = Some(tls.version.clone());
        // Whoever wrote the lines before STLS, it may not have been this client (RFC 2595 §4).
        if tls.hop == Hop::Client {
            self.attempts.clear();
            self.user_refused = false;
        }
    }

    pub(super) fn greeting(&mut self, status: Option<Status>) {
        self.turned_away = status == Some(Status::Err);
        self.greeted = status == Some(Status::Ok);
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Another upstream serves the session.
    pub(super) fn reached(&mut self, upstream: &str) {
        upstream.clone_into(&mut self.totals.upstream);
    }

    /// Logins that the server refused so far.
    pub(super) fn login_failures(&self) -> u64 {
        self.totals.login_failures
    }

    pub(super) fn command(&mut self, keyword: Keyword) {
        self.totals.commands += 1;
        self.verbs.asked(keyword);
    }

    /// A command of the client's was answered, by whomever, this long after it came.
    pub(super) fn answered(&mut self, keyword: Keyword, status: Option<Status>, latency_us: u64) {
        self.verbs.answered(keyword, status, latency_us);
    }

    /// Command `n`, or a response that belongs to it, names a user or a mechanism.
    pub(super) fn attempt(&mut self, n: Ordinal, user: Option<&str>, mechanism: Option<&str>) {
        self.change(n, |attempt| {
            attempt.user = user.map(str::to_owned).or_else(|| attempt.user.take());
            attempt.mechanism = mechanism.map(str::to_owned).or_else(|| attempt.mechanism.take());
        });
    }

    /// The client cancelled exchange `auth`.
    pub(super) fn cancelled(&mut self, auth: Ordinal) {
        self.change(auth, |attempt| attempt.cancelled = true);
    }

    pub(super) fn reply(&mut self, n: Ordinal, keyword: Keyword, status: Option<Status>, stage: Stage) {
        self.totals.errors += u64::from(status == Some(Status::Err));
        match (keyword, status) {
            _ if !self.totals.logged_in && stage == Stage::Transaction => self.logged_in(n),
            (Keyword::Pass | Keyword::Apop | Keyword::Auth, Some(Status::Err)) if !self.totals.logged_in => self.login_failed(n),
            (Keyword::User, Some(Status::Err)) => self.user_refused = true,
            (Keyword::Dele, Some(Status::Ok)) => self.totals.deleted += 1,
            (Keyword::Rset, Some(Status::Ok)) => (self.totals.deleted, self.totals.shielded) = (0, 0),
            (Keyword::Quit, Some(status)) => self.quit = Some(status),
            _ => {}
        }
    }

    /// A rule decided, or would have.
    pub(super) fn decision(&mut self, decision: &Decision<'_>) {
        self.totals.shielded += u64::from(decision.enforced && decision.action == Action::Shield);
        let counts = if decision.enforced { &mut self.totals.rules } else { &mut self.totals.rules_dry };
        if let Some(count) = counts.get_mut(decision.rule) {
            *count += 1;
        } else if counts.len() < RULES {
            counts.insert(decision.rule.to_owned(), 1);
        }
    }

    /// The content of message `number` begins.
    pub(super) fn message_begins(&mut self, number: Option<u64>) {
        self.passing = Some(Passing { number, truncated: false });
    }

    /// … and ends after `size` octets.
    pub(super) fn message_ends(&mut self, keyword: Keyword, size: u64, complete: bool) {
        if !complete {
            self.passing = Some(Passing { number: self.passing.and_then(|passing| passing.number), truncated: true });
            return;
        }
        self.passing = None;
        if keyword == Keyword::Retr {
            self.totals.messages += 1;
            self.totals.message_octets += size;
        }
    }

    pub(super) fn opaque(&mut self, reason: OpaqueReason) {
        self.opaque = Some(reason);
        self.passing = None;
        self.totals.opaque = Some(reason.describe().0.to_owned());
    }

    pub(super) fn violation(&mut self, violation: Violation) {
        self.violation = Some(violation);
    }

    /// Events that could not be recorded.
    pub(super) fn lost(&mut self, events: u64) {
        self.totals.events_lost += events;
    }

    /// The summary of a session that is over.
    pub(super) fn finish(&mut self, closed: &Closed, duration_us: u64) -> Summary {
        let mut summary = self.totals.clone();
        summary.verbs = self.verbs.take();
        summary.duration_us = duration_us;
        summary.client_octets = closed.client_octets;
        summary.upstream_octets = closed.upstream_octets;
        summary.client_undelivered = closed.client_undelivered;
        summary.upstream_undelivered = closed.upstream_undelivered;
        summary.closed_by.clone_from(&closed.by);
        summary.reason.clone_from(&closed.reason);
        summary.verdict = self.verdict(closed, duration_us.saturating_sub(self.last_us));
        if summary.user.is_none() {
            summary.user = self.attempts.back().and_then(|attempt| attempt.user.clone());
        }
        if summary.mechanism.is_none() {
            summary.mechanism = self.attempts.back().and_then(|attempt| attempt.mechanism.clone());
        }
        summary
    }

    fn change(&mut self, n: Ordinal, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.n == n) {
            return change(attempt);
        }
        if self.attempts.len() == ATTEMPTS {
            self.attempts.pop_front();
        }
        let mut attempt = Attempt { n, user: None, mechanism: None, cancelled: false };
        change(&mut attempt);
        self.attempts.push_back(attempt);
    }

    /// Reply `n` logged the session in: the last identity named up to there is its user.
    fn logged_in(&mut self, n: Ordinal) {
        self.totals.logged_in = true;
        if let Some(attempt) = self.attempts.iter().rev().find(|attempt| attempt.n <= n) {
            self.totals.user.clone_from(&attempt.user);
            self.totals.mechanism.clone_from(&attempt.mechanism);
        }
        self.attempts = VecDeque::new();
    }

    fn login_failed(&mut self, n: Ordinal) {
        let cancelled = self.attempts.iter().any(|attempt| attempt.n == n && attempt.cancelled);
        self.totals.login_failures += u64::from(!cancelled);
    }

    fn verdict(&self, closed: &Closed, silent_us: u64) -> String {
        let because = |what: &str| closed.detail.as_ref().map_or(what.to_owned(), |detail| format!("{what}: {detail}"));
        match closed.reason.as_str() {
            "quit" | "eof" | "reset" | "truncated" => self.ended(closed),
            "timeout-greeting" => "timed out: no greeting from the server".to_owned(),
            "timeout-login" => "timed out: no login in time".to_owned(),
            "timeout-idle" => format!("timed out: idle for {}", duration(silent_us)),
            "timeout-half-closed" => {
                format!("timed out: nothing for {} after one side had ended its stream", duration(silent_us))
            }
            "violation" => self.fault(closed),
            "upstream-unreachable" | "timeout-connect" => because("could not reach the server"),
            "upstream-refused" => because("the server refused the session"),
            "upstream-tls" | "timeout-handshake" => because("TLS with the server failed"),
            "client-tls" | "timeout-client-handshake" => because("TLS with the client failed"),
            "upstream-stls" => because("the server would not start TLS"),
            "not-allowed" => because("client turned away: its address may not connect"),
            "not-a-proxy" => because("client turned away: only proxies may connect here, and its address is none of theirs"),
            "proxy-header" | "timeout-proxy-header" => because("closed: the proxy did not announce its client"),
            "denied" => because("client turned away: its address is denied"),
            "client-blocked" => because("client turned away: too many failed logins from its address"),
            "user-blocked" => because("client turned away: too many failed logins of this user"),
            "too-many-from-client" => because("client turned away: too many sessions from its address"),
            "too-many-of-user" => because("client turned away: too many sessions of this user"),
            "too-many-connections" => because("client turned away: too many connections"),
            "too-many-commands" => "closed: more commands than one session may have".to_owned(),
            "too-many-octets" => "closed: more octets than one session may have".to_owned(),
            "strict" => because("closed for an anomaly"),
            "line-too-long" => "closed: the client sent a line that is too long to be judged".to_owned(),
            "policy" => because("closed by a rule"),
            "transcript-failing" => because("client turned away: the transcript cannot be written"),
            "shutdown" => "stopped by the operator".to_owned(),
            "transcript-full" => "closed: the transcript could not take more, and on_full is `close`".to_owned(),
            "abandoned" => "abandoned: poptap failed in this session".to_owned(),
            other => because(&format!("closed by {}: {other}", closed.by)),
        }
    }

    /// One of the peers ended it.
    fn ended(&self, closed: &Closed) -> String {
        if let Some(reason) = self.opaque {
            return format!("opaque: {}", reason.describe().1);
        }
        let who = if closed.by == "upstream" { "server" } else { "client" };
        if let Some(passing) = self.passing {
            let which = passing.number.map_or_else(|| "a message".to_owned(), |number| format!("message {number}"));
            return match (who, passing.truncated) {
                ("client", false) => format!("client went away in the middle of {which}"),
                // A half-close, or the client is gone: TCP says the same of both.
                ("client", true) => {
                    format!("server ended in the middle of {which} (truncated), after the client had ended its stream")
                }
                _ => format!("server went away in the middle of {which} (truncated)"),
            };
        }
        // After QUIT, clients often leave without reading its reply.
        if closed.upstream_undelivered > 0 && closed.by == "client" && self.quit.is_none() {
            return format!("client went away before it had everything: {} undelivered", size(closed.upstream_undelivered));
        }
        if !self.totals.logged_in {
            return self.without_login(who);
        }
        self.after_login(closed, who)
    }

    fn without_login(&self, who: &str) -> String {
        if self.turned_away {
            "the server refused the session".to_owned()
        } else if self.totals.login_failures > 0 || self.user_refused {
            "login refused by the server".to_owned()
        } else if self.quit.is_some() {
            "client left before a login".to_owned()
        } else {
            format!("{who} left before a login")
        }
    }

    fn after_login(&self, closed: &Closed, who: &str) -> String {
        match (self.quit, who) {
            (Some(Status::Err), _) if self.totals.deleted > 0 => {
                format!("the server refused QUIT: its deletions may not count ({})", self.harvest())
            }
            (Some(_), _) => format!("complete: {}", self.harvest()),
            (None, "client") if self.totals.deleted > 0 => "client left without QUIT: its deletions do not count".to_owned(),
            (None, _) if closed.reason == "quit" => format!("complete: {}", self.harvest()),
            (None, "client") => format!("client left without QUIT: {}", self.harvest()),
            (None, _) => format!("server ended the session without QUIT: {}", self.harvest()),
        }
    }

    fn harvest(&self) -> String {
        match self.totals.messages {
            0 => "no messages retrieved".to_owned(),
            1 => format!("1 message, {}", size(self.totals.message_octets)),
            messages => format!("{messages} messages, {}", size(self.totals.message_octets)),
        }
    }

    fn fault(&self, closed: &Closed) -> String {
        let Some(violation) = self.violation else {
            return closed.detail.clone().unwrap_or_else(|| "closed: what was sent was not safe to pass on".to_owned());
        };
        let who = if violation.fault == Peer::Client { "client" } else { "server" };
        format!("{who}'s fault: {}", violation.kind.describe().1)
    }
}

/// Octets in the largest unit that leaves a number of one digit or more before the point.
fn size(octets: u64) -> String {
    let (unit, name) = match octets {
        1 => return "1 octet".to_owned(),
        0..1_000 => return format!("{octets} octets"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    let tenths = octets / (unit / 10);
    if tenths < 100 { format!("{}.{} {name}", tenths / 10, tenths % 10) } else { format!("{} {name}", octets / unit) }
}

/// A length of time in whole units.
fn duration(micros: u64) -> String {
    let plural = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match micros / 1_000_000 {
        seconds @ 0..120 => plural(seconds, "second"),
        seconds => plural(seconds / 60, "minute"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::ViolationKind;

    fn closed(by: &str, reason: &str) -> Closed {
        Closed { by: by.to_owned(), reason: reason.to_owned(), ..Closed::default() }
    }

    fn verdict(tally: &mut Tally, by: &str, reason: &str) -> String {
        tally.finish(&closed(by, reason), 0).verdict
    }

    fn reply(tally: &mut Tally, n: u64, keyword: Keyword, status: Status, stage: Stage) {
        tally.reply(n, keyword, Some(status), stage);
    }

    fn logged_in() -> Tally {
        let mut tally = Tally::default();
        tally.attempt(1, Some("bob"), Some("USER"));
        reply(&mut tally, 2, Keyword::Pass, Status::Ok, Stage::Transaction);
        tally
    }

    #[test]
    fn complete() {
        let mut tally = logged_in();
        assert_eq!(verdict(&mut tally, "client", "quit"), "complete: no messages retrieved");
        for size in [40_000, 50_000, 30_000] {
            tally.message_begins(Some(1));
            tally.message_ends(Keyword::Retr, size, true);
        }
        reply(&mut tally, 9, Keyword::Quit, Status::Ok, Stage::Update);
        assert_eq!(verdict(&mut tally, "client", "quit"), "complete: 3 messages, 120 kB");
        assert_eq!(verdict(&mut tally, "upstream", "eof"), "complete: 3 messages, 120 kB");
    }

    #[test]
    fn a_message_cut_short() {
        let mut tally = logged_in();
        tally.message_begins(Some(2));
        assert_eq!(verdict(&mut tally, "client", "eof"), "client went away in the middle of message 2");
        assert_eq!(verdict(&mut tally, "upstream", "reset"), "server went away in the middle of message 2 (truncated)");
        tally.message_ends(Keyword::Retr, 5, false);
        assert_eq!(verdict(&mut tally, "upstream", "truncated"), "server went away in the middle of message 2 (truncated)");
        let after_the_client = "server ended in the middle of message 2 (truncated), after the client had ended its stream";
        assert_eq!(verdict(&mut tally, "client", "eof"), after_the_client);
        assert_eq!(tally.totals.messages, 0);
    }

    #[test]
    fn turned_away_by_the_server() {
        let mut tally = Tally::default();
        tally.greeting(Some(Status::Err));
        assert_eq!(verdict(&mut tally, "upstream", "eof"), "the server refused the session");
    }

    #[test]
    fn what_the_client_did_not_take() {
        let mut tally = logged_in();
        let gone = Closed { upstream_undelivered: 1_200, ..closed("client", "reset") };
        assert_eq!(tally.finish(&gone, 0).verdict, "client went away before it had everything: 1.2 kB undelivered");
        reply(&mut tally, 3, Keyword::Quit, Status::Ok, Stage::Update);
        assert_eq!(tally.finish(&gone, 0).verdict, "complete: no messages retrieved");
    }

    #[test]
    fn without_quit() {
        let mut tally = logged_in();
        assert_eq!(verdict(&mut tally, "client", "eof"), "client left without QUIT: no messages retrieved");
        reply(&mut tally, 3, Keyword::Dele, Status::Ok, Stage::Transaction);
        assert_eq!(verdict(&mut tally, "client", "reset"), "client left without QUIT: its deletions do not count");
        assert_eq!(tally.totals.deleted, 1);
        reply(&mut tally, 4, Keyword::Rset, Status::Ok, Stage::Transaction);
        assert_eq!(tally.totals.deleted, 0);
    }

    #[test]
    fn logins() {
        let mut tally = Tally::default();
        assert_eq!(verdict(&mut tally, "client", "quit"), "client left before a login");
        assert_eq!(verdict(&mut tally, "upstream", "eof"), "server left before a login");
        reply(&mut tally, 1, Keyword::Quit, Status::Ok, Stage::Authorization);
        assert_eq!(verdict(&mut tally, "upstream", "quit"), "client left before a login");
        tally.attempt(1, Some("eve"), Some("PLAIN"));
        reply(&mut tally, 1, Keyword::Auth, Status::Err, Stage::Authorization);
        assert_eq!(verdict(&mut tally, "client", "quit"), "login refused by the server");
        tally.attempt(2, None, Some("LOGIN"));
        tally.cancelled(2);
        reply(&mut tally, 2, Keyword::Auth, Status::Err, Stage::Authorization);
        tally.attempt(3, Some("bob"), Some("USER"));
        tally.attempt(5, Some("mallory"), Some("USER"));
        reply(&mut tally, 4, Keyword::Pass, Status::Ok, Stage::Transaction);
        let summary = tally.finish(&closed("client", "quit"), 0);
        assert_eq!((summary.user.as_deref(), summary.login_failures, summary.logged_in), (Some("bob"), 1, true));
        assert_eq!((summary.mechanism.as_deref(), summary.errors), (Some("USER"), 2));
    }

    #[test]
    fn other_ends() {
        let mut tally = logged_in();
        tally.at(5_000_000);
        assert_eq!(tally.finish(&closed("poptap", "timeout-idle"), 665_000_000).verdict, "timed out: idle for 11 minutes");
        let unreachable = Closed { detail: Some("connection refused".to_owned()), ..closed("poptap", "upstream-unreachable") };
        assert_eq!(tally.finish(&unreachable, 0).verdict, "could not reach the server: connection refused");
        let late = Closed { reason: "timeout-connect".to_owned(), ..unreachable };
        assert_eq!(tally.finish(&late, 0).verdict, "could not reach the server: connection refused");
        assert_eq!(verdict(&mut tally, "poptap", "shutdown"), "stopped by the operator");
        for reason in ["denied", "client-blocked", "user-blocked", "too-many-from-client", "too-many-of-user"] {
            assert!(verdict(&mut tally, "poptap", reason).starts_with("client turned away: "), "{reason}");
        }
        let denied = Closed { detail: Some("for 9m more".to_owned()), ..closed("poptap", "user-blocked") };
        let said = "client turned away: too many failed logins of this user: for 9m more";
        assert_eq!(tally.finish(&denied, 0).verdict, said);
        tally.violation(Violation { fault: Peer::Client, kind: ViolationKind::TlsOnPlainPort });
        assert_eq!(verdict(&mut tally, "poptap", "violation"), "client's fault: it started TLS on a plain port");
        tally.opaque(OpaqueReason::StartTls);
        assert_eq!(verdict(&mut tally, "client", "eof"), "opaque: the client started TLS with the server");
    }

    #[test]
    fn sizes() {
        for (octets, expected) in
            [(0, "0 octets"), (999, "999 octets"), (1_000, "1.0 kB"), (12_345, "12 kB"), (2_500_000, "2.5 MB")]
        {
            assert_eq!(size(octets), expected);
        }
    }
}
