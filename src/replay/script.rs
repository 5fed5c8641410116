//! What the server said in a recorded session, and which of it answers a command now.

use std::{collections::HashMap, sync::Arc};

use super::Message;
use crate::{
    escape::unescape,
    pop3::{Command, Keyword},
    record::schema::{self, Body, Hop, Record, StatusWord, Text},
};

/// Commands of a session that are played; what follows them is not in the recording then.
const MOST: usize = 200_000;

/// Octets to which a line that was cut in the record is filled up.
const LINE: usize = 64 * 1024;

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
}

/// A reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Challenges before it (RFC 5034), each waiting for a line of the client's; line ends included.
    pub challenges: Vec<Vec<u8>>,
    /// The status line with its line end.
    pub status: Vec<u8>,
    /// The lines of a listing, dot-stuffed, with the terminator if that came.
    pub listing: Option<Arc<[u8]>>,
    /// A message, or the top of one.
    pub message: Option<Message>,
    /// How long it took, in microseconds.
    pub delay_us: u64,
    /// Whether the server went behind it.
    pub then_close: bool,
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
        match record.body {
            Body::Greeting(greeting) => self.greeting(&greeting, at_us),
            _ if self.is_over => {}
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
            status: status(greeting.status, &greeting.line),
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
            Hop::Upstream => exchange.challenges.push(challenge(sasl, exchange.challenges.len())),
        }
    }

    fn reply(&mut self, reply: &schema::Reply, at_us: u64) {
        let Some(&place) = self.places.get(&reply.n) else { return };
        // A SASL exchange takes the client's time, too: what counts is its last line.
        let delay_us = reply.latency_us.min(at_us.saturating_sub(self.spoke_us));
        let exchange = &mut self.exchanges[place];
        exchange.is_multi_line = reply.multi_line;
        let answer = exchange.answer.get_or_insert_default();
        (answer.status, answer.delay_us) = (status(reply.status, &reply.line), delay_us);
    }

    fn content(&mut self, content: schema::Content) {
        let Some(&place) = self.places.get(&content.n) else { return };
        let keyword = content.keyword.clone();
        let is_message = matches!(keyword.as_str(), "RETR" | "TOP");
        let listing = (!is_message).then(|| listing(&content).into());
        let Some(answer) = self.exchanges[place].answer.as_mut() else { return };
        answer.then_close = !content.complete;
        answer.listing = listing;
        answer.message = is_message.then(|| Message::of(content));
    }
}

/// The size of a message of which the record does not tell.
const SIZE: u64 = 1000;

/// Lines of a listing that are made up; at most some 20 MB of them are in memory.
const LISTED: u64 = 1_000_000;

/// Where one client stands in a script.
pub struct Cursor<'a> {
    script: &'a Script,
    next: usize,
}

impl<'a> Cursor<'a> {
    /// At its beginning.
    #[must_use]
    pub fn new(script: &'a Script) -> Self {
        Self { script, next: 0 }
    }

    /// The answer to a command line (without its end): that of the next recorded command which is the same, or else of the
    /// last one before, or else one that will do.
    pub fn answer(&mut self, said: &[u8]) -> Found {
        let command = Command::parse(said);
        let places = said_keys(&command).iter().find_map(|key| self.script.by_key.get(key)).map_or(&[][..], Vec::as_slice);
        let ahead = places.partition_point(|&place| place < self.next);
        let place = places.get(ahead).or_else(|| places.last()).copied();
        let Some(place) = place else { return Found::Unrecorded(self.unrecorded(&command)) };
        self.next = self.next.max(place + 1);
        self.recorded(place, &command)
    }

    fn recorded(&self, place: usize, command: &Command<'_>) -> Found {
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
        let is_tls = exchange.keyword == "STLS" && answer.status.starts_with(b"+OK");
        if is_tls {
            return Found::Recorded(exchange.n, line("-ERR TLS is not replayed"));
        }
        answer.challenges = challenges(exchange, command);
        Found::Recorded(exchange.n, answer)
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
            (Keyword::Quit, None) => Answer { then_close: true, ..line("+OK not in this recording, but goodbye") },
            _ => line("-ERR not in this recording"),
        }
    }
}

/// The lines that were kept, and where that are not all, numbered ones in the place of the rest.
fn listing(content: &schema::Content) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = content.listing.iter().filter_map(|line| unescape(line)).collect();
    // Nobody offers TLS here.
    lines.retain(|line| content.keyword != "CAPA" || !line.trim_ascii().eq_ignore_ascii_case(b"STLS"));
    let kept = content.listing.len() as u64;
    let number = |line: &Vec<u8>| std::str::from_utf8(line).ok()?.split(' ').next()?.parse::<u64>().ok();
    let first = lines.last().and_then(number).unwrap_or(0).saturating_add(1);
    for number in (first..).take(usize::try_from(content.lines.saturating_sub(kept).min(LISTED)).unwrap_or_default()) {
        lines.push(match content.keyword.as_str() {
            "LIST" => format!("{number} {SIZE}").into_bytes(),
            "UIDL" => format!("{number} replayed-{number}").into_bytes(),
            _ => b"X-NOT-IN-THIS-RECORDING".to_vec(),
        });
    }
    let mut out = Vec::new();
    for line in lines {
        out.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
        out.extend_from_slice(&line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if content.complete { b".\r\n" } else { b"" });
    out
}

/// The challenges now: one more, or one less, where the client sends an initial response that it did not send then.
fn challenges(exchange: &Exchange, command: &Command<'_>) -> Vec<Vec<u8>> {
    let mut challenges = exchange.challenges.clone();
    if exchange.keyword != "AUTH" || exchange.was_cancelled {
        return challenges;
    }
    let has_initial_response = command.arguments().nth(1).is_some();
    match (exchange.has_initial_response, has_initial_response) {
        (true, false) => challenges.insert(0, b"+ \r\n".to_vec()),
        (false, true) if !challenges.is_empty() => drop(challenges.remove(0)),
        _ => {}
    }
    challenges
}

/// A challenge: as it was where that is told, or else one of the same length.
fn challenge(sasl: &schema::Sasl, number: usize) -> Vec<u8> {
    if let Some(text) = sasl.revealed.as_ref().and_then(|text| unescape(text)) {
        return [&text[..], b"\r\n"].concat();
    }
    // `+ `, the text, CR LF.
    let text = usize::try_from(sasl.octets.saturating_sub(4)).unwrap_or(LINE).min(LINE);
    let prompt = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"].get(number).filter(|prompt| prompt.len() == text);
    let text = prompt.map_or_else(|| "eHh4".repeat(text / 4), |prompt| (*prompt).to_owned());
    format!("+ {text}\r\n").into_bytes()
}

/// The line as far as it is told, with the end that it had.
fn status(status: StatusWord, line: &Text) -> Vec<u8> {
    let word = if status == StatusWord::Err { "-ERR" } else { "+OK" };
    let told = line.text.as_ref().filter(|_| line.redacted.is_none()).and_then(|text| unescape(text));
    let mut text = told.unwrap_or_else(|| format!("{word} (withheld in the recording)").into_bytes());
    let end: &[u8] = match line.line_end.as_deref() {
        Some("lf") => b"\n",
        Some("none") => b"",
        _ => b"\r\n",
    };
    if line.cut {
        let octets = usize::try_from(line.octets).unwrap_or(LINE).min(LINE).saturating_sub(end.len());
        text.resize(octets.max(text.len()), b'x');
    }
    text.extend_from_slice(end);
    text
}

fn line(text: &str) -> Answer {
    Answer { status: format!("{text}\r\n").into_bytes(), ..Answer::default() }
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
