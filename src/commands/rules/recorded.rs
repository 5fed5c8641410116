//! A recorded session as a trial can play it again: what the client said, as far as the record tells, and what the server said.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    escape::unescape,
    policy::{BUILT_IN_EDITS, Script, message_in},
    record::schema::{self, Body, Hop, Record, StatusWord},
};

/// A session. Memory: that of its commands and of its short replies.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
pub(super) struct Recorded {
    /// The client's, the listener's, and the upstream's name.
    pub(super) client: Option<SocketAddr>,
    pub(super) listener: Option<SocketAddr>,
    pub(super) upstream: String,
    /// Whether the client's hop was TLS from the first octet.
    pub(super) tls: bool,
    /// Whether it became so with STLS.
    pub(super) stls: bool,
    /// Whether user names are digests.
    pub(super) hashed: bool,
    pub(super) greeting: Option<Step>,
    pub(super) steps: Vec<Step>,
    /// Sizes of messages that the server told.
    pub(super) sizes: BTreeMap<u64, u64>,
    revealed: bool,
    is_over: bool,
    places: HashMap<u64, usize>,
    own: BTreeSet<u64>,
}

/// One command, and what became of it.
#[derive(Default)]
pub(super) struct Step {
    pub(super) n: u64,
    /// Without its line end; `None` where the record does not tell enough to judge it.
    pub(super) line: Option<Vec<u8>>,
    /// Whether the record withholds a part of it.
    pub(super) is_withheld: bool,
    /// Responses to its challenges.
    pub(super) responses: Vec<Vec<u8>>,
    /// What the server said to it, if it did.
    pub(super) script: Option<Script>,
    pub(super) was: Was,
    /// Whether TLS began on the client's hop behind it.
    pub(super) then_tls: bool,
}

/// How a command was decided.
#[derive(Default)]
pub(super) struct Was {
    /// What became of the command itself: the action as it is recorded, and the rule.
    pub(super) decision: Option<(String, String)>,
    /// The line that went on in its place, where that may be written.
    pub(super) line: Option<String>,
    /// Rules that edited its reply.
    pub(super) edits: BTreeSet<String>,
    /// The first line of poptap's own reply, where it may be written.
    pub(super) reply: Option<String>,
}

impl Recorded {
    /// The next record of the session.
    pub(super) fn take(&mut self, record: Record) {
        match record.body {
            Body::Opened(opened) => self.opened(&opened),
            Body::Reached(reached) => self.upstream = reached.upstream,
            Body::Tls(tls) if tls.hop == Hop::Client => self.secured(&tls),
            Body::Greeting(greeting) => self.greeting(&greeting),
            _ if self.is_over => {}
            Body::Command(command) if command.own => drop(self.own.insert(command.n)),
            Body::Command(command) => self.command(&command),
            Body::Sasl(sasl) => self.sasl(&sasl),
            Body::Reply(reply) => self.reply(&reply),
            Body::Content(content) => self.content(&content),
            Body::Decision(decision) if decision.enforced => self.decision(decision),
            // From here on nobody knows what a line is.
            Body::Opaque(_) => self.is_over = true,
            _ => {}
        }
    }

    fn opened(&mut self, opened: &schema::Opened) {
        self.client = opened.client.parse().ok();
        self.listener = opened.listener.parse().ok();
        self.upstream.clone_from(&opened.upstream);
        self.revealed = opened.credentials_revealed;
    }

    fn secured(&mut self, tls: &schema::Tls) {
        match self.steps.last_mut() {
            Some(last) => (last.then_tls, self.stls) = (true, true),
            None => self.tls = tls.mode != "stls",
        }
    }

    fn greeting(&mut self, greeting: &schema::Greeting) {
        let status = status_line(greeting.status, &greeting.line, self.revealed);
        let before = self.greeting.take().unwrap_or_default();
        self.greeting = Some(Step { script: Some(Script { status, ..Script::default() }), ..before });
    }

    fn command(&mut self, command: &schema::Command) {
        self.hashed |= command.user.as_deref().is_some_and(is_digest);
        self.places.insert(command.n, self.steps.len());
        let is_withheld = command.line.redacted.is_some();
        self.steps.push(Step { n: command.n, line: line_of(command), is_withheld, ..Step::default() });
    }

    fn sasl(&mut self, sasl: &schema::Sasl) {
        let Some(&place) = self.places.get(&sasl.auth) else { return };
        let Some(n) = sasl.n else { return };
        self.hashed |= sasl.user.as_deref().is_some_and(is_digest);
        self.places.insert(n, place);
        let step = &mut self.steps[place];
        let mechanism = step.line.as_deref().and_then(mechanism_in).unwrap_or_default();
        let response = match &sasl.user {
            _ if sasl.cancel => b"*".to_vec(),
            Some(user) => message(&mechanism, user),
            None => STANDARD.encode(FILLER).into_bytes(),
        };
        step.responses.push(response);
    }

    fn reply(&mut self, reply: &schema::Reply) {
        let revealed = self.revealed;
        let Some(step) = self.step(reply.n) else { return };
        if reply.local {
            return step.was.reply.clone_from(&reply.line.text);
        }
        let status = status_line(reply.status, &reply.line, revealed);
        step.script = Some(Script { status, ..Script::default() });
        if let ("LIST", Some(text)) = (reply.keyword.as_str(), &reply.line.text) {
            self.listed(text.trim_start_matches("+OK"));
        }
    }

    fn content(&mut self, content: &schema::Content) {
        if content.keyword == "LIST" {
            content.listing.iter().for_each(|line| self.listed(line));
        }
        let is_own = self.own.contains(&content.n);
        let Some(step) = self.step(content.n).filter(|_| !is_own) else { return };
        if let Some(script) = &mut step.script {
            let lines = content.listing.iter().filter_map(|line| unescape(line));
            script.body = lines.flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect();
        }
        // Where LIST has told another size, that is the one that poptap knew.
        let message = step.line.as_deref().and_then(message_in).filter(|_| content.keyword == "RETR" && content.complete);
        if let Some(message) = message {
            self.sizes.entry(message).or_insert(content.size);
        }
    }

    /// A line of a listing: number and size (RFC 1939 §5).
    fn listed(&mut self, line: &str) {
        let mut words = line.split_whitespace().map(str::parse);
        if let (Some(Ok(message)), Some(Ok(size))) = (words.next(), words.next()) {
            self.sizes.insert(message, size);
        }
    }

    fn decision(&mut self, decision: schema::Decision) {
        let was = match decision.n {
            None => &mut self.greeting.get_or_insert_default().was,
            Some(n) => match self.step(n) {
                Some(step) => &mut step.was,
                None => return,
            },
        };
        match decision.action.as_str() {
            "remove-line" | "edit-line" | "add-line" if BUILT_IN_EDITS.contains(&decision.rule.as_str()) => {}
            "remove-line" | "edit-line" | "add-line" => drop(was.edits.insert(decision.rule)),
            "tag" | "delay" | "route" => {}
            _ => {
                was.line = decision.line;
                was.decision = Some((decision.action, decision.rule));
            }
        }
    }

    fn step(&mut self, n: u64) -> Option<&mut Step> {
        let place = *self.places.get(&n)?;
        self.steps.get_mut(place)
    }
}

/// Stands for what is withheld.
const FILLER: &str = "withheld";

/// The line as far as it is told: what is withheld is filled up to its length. `None` where that could be any command.
fn line_of(command: &schema::Command) -> Option<Vec<u8>> {
    let text = unescape(command.line.text.as_ref()?)?;
    let is_secret = command.line.redacted.is_some();
    let mut line = match (&command.keyword[..], &command.mechanism, &command.user) {
        ("?", ..) if is_secret => return None,
        ("AUTH", Some(mechanism), user) if is_secret => {
            let said = user.as_ref().map_or_else(|| STANDARD.encode(FILLER).into_bytes(), |user| message(mechanism, user));
            return Some([b"AUTH ", mechanism.as_bytes(), b" ", &said].concat());
        }
        _ if is_secret && command.line.redacted.as_deref() != Some("user") => [&text[..], b" ", FILLER.as_bytes()].concat(),
        _ => text,
    };
    if command.line.cut || is_secret {
        let octets = usize::try_from(command.line.octets.saturating_sub(2)).unwrap_or(LONGEST).min(LONGEST);
        line.resize(octets.max(line.len()), b'x');
    }
    Some(line)
}

/// No cap on a command line is longer.
const LONGEST: usize = 8 * 1024;

/// `user = "hash"` writes names so.
fn is_digest(user: &str) -> bool {
    user.strip_prefix("user:").is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn mechanism_in(line: &[u8]) -> Option<String> {
    let word = crate::pop3::Command::parse(line).arguments().next()?;
    Some(String::from_utf8_lossy(word).to_ascii_uppercase())
}

/// A first message of the client's that names a user, in base64.
fn message(mechanism: &str, user: &str) -> Vec<u8> {
    let quoted = user.replace('=', "=3D").replace(',', "=2C");
    let message = match mechanism {
        "PLAIN" => format!("\0{user}\0{FILLER}"),
        "XOAUTH2" => format!("user={user}\x01auth={FILLER}\x01\x01"),
        "OAUTHBEARER" => format!("n,a={quoted},\x01auth={FILLER}\x01\x01"),
        "CRAM-MD5" => format!("{user} {FILLER}"),
        name if name.starts_with("SCRAM-") => format!("n,,n={quoted},r={FILLER}"),
        _ => user.to_owned(),
    };
    STANDARD.encode(message).into_bytes()
}

/// The server's line as it is told, or a line with its status.
fn status_line(status: StatusWord, line: &schema::Text, revealed: bool) -> Vec<u8> {
    let text = line.text.as_ref().filter(|_| !revealed).and_then(|text| unescape(text));
    // A line without a status could only be taken for one by mistake.
    let fallback = if status == StatusWord::Err { "-ERR" } else { "+OK" };
    let text = text.filter(|_| status != StatusWord::Other).unwrap_or_else(|| fallback.as_bytes().to_vec());
    [&text[..], b"\r\n"].concat()
}
