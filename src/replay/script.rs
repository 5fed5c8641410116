//! What the server said in a recorded session, and which of it answers a command now.

mod lines;

use std::{collections::HashMap, sync::Arc};

use self::lines::{challenge, challenges, line, listing, status};
use super::Message;
use crate::{
    config::TlsMode,
    escape::unescape,
    pop3::{Command, Keyword},
    record::schema::{self, Body, Hop, Record, StatusWord},
};

/// Commands of a session that are played; what follows them is not in the recording then.
const MOST: usize = 200_000;

/// Octets of lines that are made up, since the record has only their length, or their number. A record may claim anything: what is
/// beyond that is left out.
const MADE_UP: usize = 32 * 1024 * 1024;

/// A session as it is played. Memory: that of its replies and listings; messages stay where they are.
#[derive(Default)]
pub struct Script {
    greeting: Option<Answer>,
    exchanges: Vec<Exchange>,
    /// The places of commands with the same key, in order.
    by_key: HashMap<String, Vec<usize>>,
    /// The server went by itself behind the last exchange.
    server_went: bool,
    places: HashMap<u64, usize>,
    is_over: bool,
    /// When the client spoke last, in microseconds since the session was opened.
    spoke_us: u64,
    /// When anything was said last.
    said_us: u64,
    /// How long the last reply took.
    latency_us: u64,
    /// Octets that were made up.
    made_up: usize,
    /// How TLS stood before the greeting, where it did.
    began: Option<TlsMode>,
    /// STLS was in a list of capabilities.
    listed_stls: bool,
    /// What became of STLS where the client asked for it.
    stls: Option<StatusWord>,
}

/// A command and what came back.
#[derive(Default)]
struct Exchange {
    n: u64,
    keyword: String,
    challenges: Vec<Vec<u8>>,
    has_initial_response: bool,
    was_cancelled: bool,
    is_multi_line: bool,
    /// What the client got in the place of the server's status line.
    edited: Option<Vec<u8>>,
    answer: Option<Answer>,
    /// Lines that answered nothing, between this exchange and the next.
    after: Vec<Timed>,
}

/// A line with its end, and how long it is waited for, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    /// The line.
    pub line: Vec<u8>,
    /// The time since what was said before it.
    pub delay_us: u64,
}

/// A reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Challenges before it (RFC 5034), each waiting for a line of the client's; line ends included.
    pub challenges: Vec<Vec<u8>>,
    /// The first of two replies, behind which the client sends a message: XTND XMIT.
    pub go_ahead: Option<Timed>,
    /// The status line with its line end.
    pub status: Vec<u8>,
    /// The lines of a listing, dot-stuffed, with the terminator if that came.
    pub listing: Option<Arc<[u8]>>,
    /// A message, or the top of one.
    pub message: Option<Message>,
    /// How long it took, in microseconds.
    pub delay_us: u64,
    /// How long the listing or the message took behind the status line, in microseconds.
    pub lasts_us: u64,
    /// Lines of the server's own accord behind it.
    pub after: Vec<Timed>,
    /// Whether TLS begins behind it.
    pub then_tls: bool,
    /// Whether the server went behind it.
    pub then_close: bool,
}

/// Whether TLS can be begun with STLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// There is no certificate for it.
    #[default]
    Never,
    /// It is offered.
    Offered,
    /// It stands already.
    Stands,
}

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The answer that was recorded to it: the number of the command then.
    Recorded(u64, Answer),
    /// It was recorded, and had no answer: the server has gone or was silent.
    Unanswered {
        /// The number of the command.
        n: u64,
        /// Whether the connection was closed by the server's side.
        closed: bool,
    },
    /// It was not recorded: an answer that will do.
    Unrecorded(Answer),
}

impl Script {
    /// The next record of the session.
    pub fn take(&mut self, record: Record) {
        let at_us = record.at_us;
        let before = std::mem::replace(&mut self.said_us, at_us);
        match record.body {
            Body::Greeting(greeting) => self.greeting(&greeting, at_us),
            _ if self.is_over => {}
            Body::Unsolicited(said) => self.unsolicited(&said, at_us.saturating_sub(before)),
            Body::ClientData(data) => self.client_data(&data, at_us),
            Body::Tls(tls) if tls.hop == Hop::Client => match tls.mode.as_str() {
                "implicit" => self.began = Some(TlsMode::Implicit),
                _ => self.stls = Some(StatusWord::Ok),
            },
            Body::Command(command) if command.own || self.exchanges.len() >= MOST => {}
            Body::Command(command) => self.command(&command, at_us),
            Body::Sasl(sasl) => self.sasl(&sasl, at_us),
            Body::Reply(reply) => self.reply(&reply, at_us),
            Body::Content(content) => self.content(content),
            Body::Decision(decision) if decision.enforced && decision.action == "edit-line" => self.edited(&decision),
            // From here on nobody knows what was said.
            Body::Opaque(_) => self.is_over = true,
            Body::Closed(closed) => self.server_went = closed.by != "client",
            _ => {}
        }
    }

    /// How many commands it has.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.exchanges.len()
    }

    /// How TLS began on the client's hop, or could have begun.
    #[must_use]
    pub fn tls(&self) -> TlsMode {
        match (self.began, self.stls) {
            (Some(began), _) => began,
            (_, Some(StatusWord::Ok)) => TlsMode::Stls,
            (_, None) if self.listed_stls => TlsMode::Stls,
            _ => TlsMode::Plain,
        }
    }

    /// Whether there is nothing to play.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.greeting.is_none() && self.exchanges.is_empty()
    }

    /// The greeting, or one that will do.
    #[must_use]
    pub fn greeting_line(&self) -> Answer {
        self.greeting.clone().unwrap_or_else(|| line("+OK replayed"))
    }

    fn greeting(&mut self, greeting: &schema::Greeting, at_us: u64) {
        // A second one comes from a second connection of poptap's, and no client gets it.
        if self.greeting.is_some() {
            return;
        }
        let refused = greeting.status == StatusWord::Err;
        self.greeting = Some(Answer {
            status: status(greeting.status, &greeting.line, &mut self.made_up),
            delay_us: at_us,
            then_close: refused,
            ..Answer::default()
        });
    }

    /// A line that went on in the place of the server's. Which line of a listing that was, the record does not tell.
    fn edited(&mut self, decision: &schema::Decision) {
        let Some(text) = decision.line.as_ref().and_then(|line| unescape(line)) else { return };
        let line = [&text[..], b"\r\n"].concat();
        match (decision.n, &mut self.greeting) {
            (None, Some(greeting)) if self.exchanges.is_empty() => greeting.status = line,
            (None, _) => {}
            (Some(n), _) => {
                if let Some(exchange) = self.places.get(&n).and_then(|&place| self.exchanges.get_mut(place)) {
                    exchange.edited = Some(line);
                }
            }
        }
    }

    fn command(&mut self, command: &schema::Command, at_us: u64) {
        let place = self.exchanges.len();
        self.spoke_us = at_us;
        self.places.insert(command.n, place);
        self.by_key.entry(recorded_key(command)).or_default().push(place);
        self.exchanges.push(Exchange {
            n: command.n,
            keyword: command.keyword.clone(),
            has_initial_response: command.line.redacted.is_some() || words(command).count() > 2,
            ..Exchange::default()
        });
    }

    fn sasl(&mut self, sasl: &schema::Sasl, at_us: u64) {
        let Some(place) = self.places.get(&sasl.auth).copied() else { return };
        let exchange = &mut self.exchanges[place];
        match sasl.from {
            Hop::Client => {
                exchange.was_cancelled |= sasl.cancel;
                self.spoke_us = at_us;
                if let Some(n) = sasl.n {
                    self.places.insert(n, place);
                }
            }
            Hop::Upstream => exchange.challenges.push(challenge(sasl, exchange.challenges.len(), &mut self.made_up)),
        }
    }

    fn reply(&mut self, reply: &schema::Reply, at_us: u64) {
        let Some(&place) = self.places.get(&reply.n) else { return };
        // A SASL exchange takes the client's time, too: what counts is its last line.
        let delay_us = reply.latency_us.min(at_us.saturating_sub(self.spoke_us));
        let exchange = &mut self.exchanges[place];
        exchange.is_multi_line = reply.multi_line;
        self.latency_us = reply.latency_us;
        let answer = exchange.answer.get_or_insert_default();
        (answer.status, answer.delay_us) = (status(reply.status, &reply.line, &mut self.made_up), delay_us);
        if exchange.keyword == "STLS" && self.stls != Some(StatusWord::Ok) {
            self.stls = Some(reply.status);
        }
    }

    /// Behind the first `+OK` came a message, and the answer is what comes next.
    fn client_data(&mut self, data: &schema::ClientData, at_us: u64) {
        self.spoke_us = at_us;
        let exchange = self.places.get(&data.n).and_then(|&place| self.exchanges.get_mut(place));
        let Some(answer) = exchange.and_then(|exchange| exchange.answer.as_mut()).filter(|answer| answer.go_ahead.is_none())
        else {
            return;
        };
        let go_ahead = Timed { line: std::mem::take(&mut answer.status), delay_us: answer.delay_us };
        *answer = Answer { go_ahead: Some(go_ahead), ..Answer::default() };
    }

    /// It belongs behind what was said last.
    fn unsolicited(&mut self, said: &schema::Unsolicited, delay_us: u64) {
        if self.made_up >= MADE_UP {
            return;
        }
        let line = status(said.status, &said.line, &mut self.made_up);
        self.made_up += line.len();
        let after = match (self.exchanges.last_mut(), &mut self.greeting) {
            (Some(exchange), _) => &mut exchange.after,
            (None, Some(greeting)) => &mut greeting.after,
            (None, None) => return,
        };
        after.push(Timed { line, delay_us });
    }

    fn content(&mut self, content: schema::Content) {
        let Some(&place) = self.places.get(&content.n) else { return };
        let keyword = content.keyword.clone();
        let is_message = matches!(keyword.as_str(), "RETR" | "TOP");
        let listing = (!is_message).then(|| listing(&content, &mut self.made_up).into());
        self.listed_stls |= keyword == "CAPA" && content.listing.iter().any(|line| lines::is_stls(line.as_bytes()));
        let Some(answer) = self.exchanges[place].answer.as_mut() else { return };
        answer.then_close = !content.complete;
        answer.lasts_us = content.total_us.saturating_sub(self.latency_us);
        answer.listing = listing;
        answer.message = is_message.then(|| Message::of(content));
    }
}

/// Where one client stands in a script.
pub struct Cursor<'a> {
    script: &'a Script,
    next: usize,
    /// Whether STLS is listed, and accepted.
    pub begin: Begin,
}

impl<'a> Cursor<'a> {
    /// At its beginning.
    #[must_use]
    pub fn new(script: &'a Script) -> Self {
        Self { script, next: 0, begin: Begin::Never }
    }

    /// The answer to a command line (without its end): that of the next recorded command which is the same, or else of the
    /// last one before, or else one that will do.
    pub fn answer(&mut self, said: &[u8]) -> Found {
        let command = Command::parse(said);
        let places = said_keys(&command).iter().find_map(|key| self.script.by_key.get(key)).map_or(&[][..], Vec::as_slice);
        let ahead = places.partition_point(|&place| place < self.next);
        let place = places.get(ahead).or_else(|| places.last()).copied();
        let Some(place) = place else { return Found::Unrecorded(self.unrecorded(&command)) };
        let is_new = place >= self.next;
        self.next = self.next.max(place + 1);
        self.recorded(place, is_new, &command)
    }

    fn recorded(&self, place: usize, is_new: bool, command: &Command<'_>) -> Found {
        let Script { exchanges, server_went, .. } = self.script;
        let exchange = &exchanges[place];
        let is_last = place + 1 == exchanges.len();
        let Some(answer) = &exchange.answer else {
            return Found::Unanswered { n: exchange.n, closed: *server_went && is_last };
        };
        let mut answer = answer.clone();
        if let Some(line) = exchange.edited.as_ref().filter(|_| !exchange.is_multi_line) {
            answer.status.clone_from(line);
        }
        answer.then_close |= is_last && (*server_went || exchange.keyword == "QUIT")
            || exchange.keyword == "QUIT" && answer.status.starts_with(b"+OK");
        if exchange.keyword == "STLS" {
            return self.stls(exchange.n, answer);
        }
        if exchange.keyword == "CAPA" {
            answer.listing = answer.listing.map(|lines| self.capabilities(&lines));
        }
        // What was said once of the server's own accord is not said again.
        answer.after = if is_new { exchange.after.clone() } else { Vec::new() };
        answer.challenges = challenges(exchange, command);
        Found::Recorded(exchange.n, answer)
    }

    fn stls(&self, n: u64, answer: Answer) -> Found {
        match (self.begin, answer.status.starts_with(b"+OK")) {
            (Begin::Offered, true) => Found::Recorded(n, Answer { then_tls: true, then_close: false, ..answer }),
            (Begin::Never, false) => Found::Recorded(n, answer),
            _ => Found::Unrecorded(self.unrecorded_stls()),
        }
    }

    fn unrecorded_stls(&self) -> Answer {
        match self.begin {
            Begin::Offered => Answer { then_tls: true, ..line("+OK begin TLS") },
            Begin::Never => line("-ERR TLS is not replayed"),
            Begin::Stands => line("-ERR TLS stands already"),
        }
    }

    /// With STLS in it if that can be had, or if the recorded refusal is played.
    fn capabilities(&self, recorded: &[u8]) -> Arc<[u8]> {
        let was_refused = self.script.stls.is_some_and(|status| status != StatusWord::Ok);
        match self.begin {
            Begin::Offered => lines::with_stls(recorded).into(),
            Begin::Never if was_refused => recorded.into(),
            _ => lines::without_stls(recorded).into(),
        }
    }

    /// Logins go on as some login in the recording ended; the rest is refused.
    fn unrecorded(&self, command: &Command<'_>) -> Answer {
        let login = || {
            let logins = self.script.exchanges.iter().rev();
            let mut logins = logins.filter(|exchange| matches!(exchange.keyword.as_str(), "PASS" | "APOP" | "AUTH"));
            logins.find_map(|exchange| exchange.answer.clone()).unwrap_or_else(|| line("+OK logged in; this is a recording"))
        };
        let as_login = |challenges| Answer { challenges, then_close: false, ..login() };
        let mut arguments = command.arguments();
        match (command.keyword, arguments.next()) {
            (Keyword::User, Some(_)) => line("+OK the recording takes any user"),
            (Keyword::Pass | Keyword::Apop, Some(_)) => as_login(Vec::new()),
            (Keyword::Auth, Some(mechanism)) => {
                let initial = usize::from(arguments.next().is_some());
                let expected = match mechanism.to_ascii_uppercase().as_slice() {
                    b"PLAIN" | b"XOAUTH2" | b"OAUTHBEARER" => 1,
                    b"LOGIN" => 2,
                    _ => return line("-ERR mechanism not in this recording"),
                };
                let prompts = [b"+ VXNlcm5hbWU6\r\n".to_vec(), b"+ UGFzc3dvcmQ6\r\n".to_vec()];
                let prompts = if expected == 2 { prompts.to_vec() } else { vec![b"+ \r\n".to_vec()] };
                as_login(prompts.into_iter().skip(initial).collect())
            }
            (Keyword::Noop, None) => line("+OK"),
            (Keyword::Stls, None) => self.unrecorded_stls(),
            // Without a list nobody would ask for STLS, and with one before TLS there has to be one inside of it.
            (Keyword::Capa, None) if self.begin != Begin::Never => {
                Answer { listing: Some(self.capabilities(b"USER\r\n.\r\n")), ..line("+OK not in this recording") }
            }
            (Keyword::Quit, None) => Answer { then_close: true, ..line("+OK not in this recording, but goodbye") },
            _ => line("-ERR not in this recording"),
        }
    }
}

fn words(command: &schema::Command) -> impl Iterator<Item = &str> {
    command.line.text.as_deref().unwrap_or_default().split_ascii_whitespace()
}

/// Commands with the same key are the same: logins by their way, since the record has no secrets, and anybody may come.
fn key<'a>(keyword: &'a str, mut arguments: impl Iterator<Item = &'a str>) -> String {
    match keyword {
        "USER" | "PASS" | "APOP" | "RPOP" | "XCLIENT" | "XOIP" => keyword.to_owned(),
        "AUTH" => format!("AUTH {}", arguments.next().unwrap_or_default().to_ascii_uppercase()),
        _ => [keyword].into_iter().chain(arguments).collect::<Vec<_>>().join(" "),
    }
}

fn recorded_key(command: &schema::Command) -> String {
    match (&command.mechanism, command.keyword.as_str()) {
        (Some(mechanism), "AUTH") => key("AUTH", [mechanism.as_str()].into_iter()),
        (_, "?") => format!("? {}", command.line.text.as_deref().unwrap_or_default().to_ascii_uppercase()),
        (_, keyword) => key(keyword, words(command).skip(1)),
    }
}

/// Of a command that poptap does not know, the record tells at most four letters.
fn said_keys(command: &Command<'_>) -> Vec<String> {
    if command.keyword == Keyword::Unknown {
        let letters = command.word.iter().take(4).take_while(|octet| octet.is_ascii_alphabetic());
        let letters: String = letters.map(|&octet| char::from(octet.to_ascii_uppercase())).collect();
        return vec![format!("? {letters}"), "? ".to_owned()];
    }
    let arguments: Vec<_> = command.arguments().map(crate::escape::escape).collect();
    vec![key(command.keyword.name(), arguments.iter().map(String::as_str))]
}

#[cfg(test)]
mod tests;
