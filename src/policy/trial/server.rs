//! The server of a trial: it agrees to whatever it is asked, unless it is told what to say.

use std::collections::BTreeMap;

use crate::pop3::{Command, Keyword};

/// What the server says to one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// How often it challenges first (AUTH).
    pub challenges: usize,
    /// The status line, line end included.
    pub status: Vec<u8>,
    /// The lines of the body, where one is expected: line ends included, the terminator not.
    pub body: Vec<u8>,
}

/// It answers each line at once.
#[derive(Debug)]
pub(super) struct Server {
    /// The messages in the mailbox: their numbers, and their sizes in octets.
    sizes: BTreeMap<u64, u64>,
    /// What it is told to say to the client's next command.
    script: Option<Script>,
    /// The exchange that is under way: how often it still challenges, and what it says then.
    exchange: Option<(usize, Vec<u8>)>,
    /// What follows the status line, if a body is expected.
    body: Vec<u8>,
}

impl Server {
    pub(super) fn new(sizes: BTreeMap<u64, u64>) -> Self {
        Self { sizes, script: None, exchange: None, body: Vec::new() }
    }

    /// What it is to say to the client's next command.
    pub(super) fn expect(&mut self, script: Option<Script>) {
        self.script = script;
    }

    /// Whether the client's next line is a part of the exchange that is under way.
    pub(super) fn is_in_exchange(&self) -> bool {
        self.exchange.is_some()
    }

    /// Answers a line; `own` says that poptap asks on its own account.
    pub(super) fn answer(&mut self, line: &[u8], own: bool) -> Vec<u8> {
        let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        if let Some((challenges, last)) = self.exchange.take() {
            return match challenges {
                _ if line == b"*" => b"-ERR cancelled\r\n".to_vec(),
                0 => last,
                more => self.challenge(more, last),
            };
        }
        let script = if own { None } else { self.script.take() };
        let Script { challenges, status, body } = script.unwrap_or_else(|| self.obliging(&Command::parse(line)));
        self.body = body;
        if challenges > 0 { self.challenge(challenges, status) } else { status }
    }

    /// What stands behind the status line that it said last, the terminator included.
    pub(super) fn body(&mut self) -> Vec<u8> {
        let mut body = std::mem::take(&mut self.body);
        body.extend_from_slice(b".\r\n");
        body
    }

    fn challenge(&mut self, challenges: usize, last: Vec<u8>) -> Vec<u8> {
        self.exchange = Some((challenges - 1, last));
        b"+ \r\n".to_vec()
    }

    fn obliging(&self, command: &Command<'_>) -> Script {
        let challenges = if command.keyword == Keyword::Auth { challenges(command) } else { 0 };
        Script { challenges, status: self.status(command), body: self.lines(command) }
    }

    fn status(&self, command: &Command<'_>) -> Vec<u8> {
        let number = super::message_number(command);
        let size = number.and_then(|number| self.sizes.get(&number));
        let said = match (command.keyword, number, size) {
            // Nothing that follows could be read any more.
            (Keyword::Stls | Keyword::Xtnd, ..) => return b"-ERR not here\r\n".to_vec(),
            (_, Some(_), None) => return b"-ERR no such message\r\n".to_vec(),
            (Keyword::Retr, _, Some(size)) => format!(" {size} octets"),
            (Keyword::List, Some(number), Some(size)) => format!(" {number} {size}"),
            (Keyword::Uidl, Some(number), _) => format!(" {number} uid{number}"),
            (Keyword::Stat, ..) => format!(" {} {}", self.sizes.len(), self.sizes.values().sum::<u64>()),
            (Keyword::Last, ..) => " 0".to_owned(),
            _ => String::new(),
        };
        format!("+OK{said}\r\n").into_bytes()
    }

    fn lines(&self, command: &Command<'_>) -> Vec<u8> {
        let listed = |line: fn((&u64, &u64)) -> String| self.sizes.iter().map(line).collect::<String>();
        let lines = match command.keyword {
            Keyword::Capa => CAPABILITIES.to_owned(),
            Keyword::Auth => MECHANISMS.to_owned(),
            Keyword::List => listed(|(number, size)| format!("{number} {size}\r\n")),
            Keyword::Uidl => listed(|(number, _)| format!("{number} uid{number}\r\n")),
            Keyword::Retr | Keyword::Top => "(the message)\r\n".to_owned(),
            _ => String::new(),
        };
        lines.into_bytes()
    }
}

const CAPABILITIES: &str = "TOP\r\nUIDL\r\nUSER\r\nSASL PLAIN LOGIN\r\nRESP-CODES\r\nPIPELINING\r\n";
const MECHANISMS: &str = "PLAIN\r\nLOGIN\r\n";

/// How many responses an AUTH still needs (RFC 5034 §4).
fn challenges(command: &Command<'_>) -> usize {
    let mut arguments = command.arguments();
    let Some(mechanism) = arguments.next().map(<[u8]>::to_ascii_uppercase) else { return 0 };
    let messages = if mechanism == b"LOGIN" || mechanism.starts_with(b"SCRAM-") { 2 } else { 1 };
    messages - usize::from(arguments.next().is_some())
}
