//! One session's records → what passed between the client and poptap, octet for octet as far as the record tells.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    filler::{self, Allowance, filler},
    stuffing::Stuffed,
    tcp::Tcp,
};
use crate::{
    escape::unescape,
    inspect::kept::Kept,
    pop3::Peer,
    record::schema::{Body, Closed, Content, Hop, Opened, Record, Reply, Sasl, StatusWord, Text, Tls},
};

/// The ends of a connection whose opening is not in the record: addresses for documentation (RFC 5737).
const UNKNOWN: [&str; 2] = ["192.0.2.1:50000", "192.0.2.2:110"];

/// What could not be put down as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Octets of messages and listings in whose place filler stands.
    pub(super) filled: u64,
    /// Octets of filler that would have been too many.
    pub(super) refused: u64,
    /// Octets of either peer's that are missing altogether.
    pub(super) missing: u64,
    /// Whether the addresses are made up.
    pub(super) nameless: bool,
}

/// Writes a session down. Memory: what [`Tcp`] and [`Kept`] need, and the numbers of poptap's own questions.
pub(super) struct Wire<'a, W: Write> {
    out: Option<W>,
    tcp: Option<Tcp<W>>,
    kept: Kept<'a>,
    /// When the session was opened, since 1970.
    start: Duration,
    /// poptap's own commands: neither they nor what answers them passed here.
    own: BTreeSet<u64>,
    /// Octets of each peer's so far, by the record; nothing before its first line.
    position: [Option<u64>; 2],
    /// When a status line was written that waits for its listing.
    held: Option<Duration>,
    closed: bool,
    losses: Losses,
    allowance: Allowance,
}

impl<'a, W: Write> Wire<'a, W> {
    /// Of a session of the store in `directory`, with so many octets of filler at most.
    pub(super) fn new(directory: &'a Path, filler: u64, out: W) -> Self {
        Self {
            out: Some(out),
            tcp: None,
            kept: Kept::new(directory),
            start: Duration::ZERO,
            own: BTreeSet::new(),
            position: [None; 2],
            held: None,
            closed: false,
            losses: Losses::default(),
            allowance: Allowance::of(filler),
        }
    }

    /// What could not be put down.
    pub(super) fn losses(&self) -> Losses {
        Losses { refused: self.allowance.refused, ..self.losses }
    }

    /// The record is over.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match (self.held.take(), &mut self.tcp) {
            (Some(_), Some(tcp)) => tcp.over(),
            _ => Ok(()),
        }
    }

    /// Goes on with the next record.
    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        if self.tcp.is_none() {
            self.connect(record)?;
        }
        let at = self.start + Duration::from_micros(record.at_us);
        if let Some(tcp) = &mut self.tcp {
            // A listing that came with its status line is a packet with it: Wireshark takes one that stands alone for a message.
            if self.held.take().is_some_and(|held| held != at || !matches!(record.body, Body::Content(_))) {
                tcp.over()?;
            }
            tcp.at(at);
        }
        match &record.body {
            Body::Greeting(greeting) => self.server_line(&greeting.line, greeting.status),
            Body::Command(command) if command.own => {
                self.own.insert(command.n);
                Ok(())
            }
            Body::Command(command) => self.line(Peer::Client, &command.line, ""),
            Body::Sasl(sasl) => self.sasl(sasl),
            Body::Reply(reply) => self.reply(reply, at),
            Body::Content(content) => self.content(content),
            Body::ClientData(data) => self.client_data(data.octets, data.complete),
            Body::Unsolicited(unsolicited) => self.server_line(&unsolicited.line, unsolicited.status),
            Body::Tls(tls) => self.tls(tls),
            Body::Closed(closed) => self.close(closed),
            Body::Opened(_)
            | Body::Unreached(_)
            | Body::Reached(_)
            | Body::Decision(_)
            | Body::Opaque(_)
            | Body::Anomaly(_)
            | Body::Gap(_)
            | Body::Session(_) => Ok(()),
        }
    }

    fn connect(&mut self, first: &Record) -> io::Result<()> {
        let time = OffsetDateTime::parse(&first.time, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp_nanos);
        let time = Duration::from_nanos(u64::try_from(time).unwrap_or_default());
        self.start = time.saturating_sub(Duration::from_micros(first.at_us));
        let Some(out) = self.out.take() else { return Ok(()) };
        let ends = endpoints(&first.body);
        self.losses.nameless = ends.is_none();
        let [client, listener] = ends.unwrap_or_else(|| UNKNOWN.map(|end| end.parse().unwrap_or_else(|_| anywhere())));
        let mut tcp = Tcp::new(out, client, listener)?;
        tcp.at(self.start);
        tcp.connect()?;
        self.tcp = Some(tcp);
        Ok(())
    }

    /// What passes inside TLS that was begun with STLS stands in a connection of its own: whoever reads the packets would
    /// look for TLS in the first.
    fn tls(&mut self, tls: &Tls) -> io::Result<()> {
        let Some(tcp) = self.tcp.as_mut().filter(|_| tls.hop == Hop::Client && tls.mode == "stls") else { return Ok(()) };
        self.position = [None; 2];
        tcp.close(Peer::Client)?;
        tcp.connect()
    }

    fn reply(&mut self, reply: &Reply, at: Duration) -> io::Result<()> {
        if self.own.contains(&reply.n) {
            self.pass(Peer::Upstream, &reply.line);
            return Ok(());
        }
        if reply.local {
            return self.local(reply);
        }
        let status = status_word(&reply.line, reply.status);
        self.pass(Peer::Upstream, &reply.line);
        let Some(tcp) = &mut self.tcp else { return Ok(()) };
        tcp.turn(Peer::Upstream);
        write_line(&reply.line, status, &mut self.allowance, tcp)?;
        if reply.multi_line && !matches!(reply.keyword.as_str(), "RETR" | "TOP") {
            self.held = Some(at);
            return Ok(());
        }
        tcp.over()
    }

    /// A reply of poptap's own. Of several lines only the first is recorded.
    fn local(&mut self, reply: &Reply) -> io::Result<()> {
        let status = status_word(&reply.line, reply.status);
        let cut = reply.line.cut;
        self.speak(Peer::Upstream, |out, allowance| {
            if !cut {
                return write_line(&reply.line, status, allowance, out);
            }
            let whole = Text { octets: 0, cut: false, ..reply.line.clone() };
            let mut first = Vec::new();
            write_line(&whole, status, allowance, &mut first)?;
            out.write_all(&first)?;
            let rest = reply.line.octets.saturating_sub(first.len() as u64);
            filler::lines(allowance.take(rest.saturating_sub(3)), 0, out)?;
            out.write_all(if rest < 3 { b"" } else { b".\r\n" })
        })
    }

    fn sasl(&mut self, sasl: &Sasl) -> io::Result<()> {
        let cancelled = sasl.cancel.then(|| "*".to_owned());
        let text = sasl.revealed.clone().or(cancelled);
        let redacted = text.is_none().then(|| "secret".to_owned());
        let line = Text { text, redacted, octets: sasl.octets, offset: sasl.offset, ..Text::default() };
        match sasl.from {
            Hop::Client => self.line(Peer::Client, &line, ""),
            Hop::Upstream => self.line(Peer::Upstream, &line, "+ "),
        }
    }

    /// A line of the server's; where its text was withheld, its status is still known.
    fn server_line(&mut self, line: &Text, status: StatusWord) -> io::Result<()> {
        self.line(Peer::Upstream, line, status_word(line, status))
    }

    fn line(&mut self, from: Peer, line: &Text, begins: &str) -> io::Result<()> {
        self.pass(from, line);
        self.speak(from, |out, allowance| write_line(line, begins, allowance, out))
    }

    /// The body of a reply: what was kept of it, what is known of a listing, and filler for the rest.
    fn content(&mut self, content: &Content) -> io::Result<()> {
        let position = &mut self.position[Peer::Upstream as usize];
        *position = position.map(|position| position.saturating_add(content.octets));
        let Some(tcp) = self.tcp.as_mut().filter(|_| !self.own.contains(&content.n)) else { return Ok(()) };
        tcp.turn(Peer::Upstream);
        let filled = body(content, &mut self.kept, &mut self.allowance, tcp)?;
        self.losses.filled = self.losses.filled.saturating_add(filled);
        tcp.over()
    }

    /// The message behind XTND XMIT, of which only the size is known.
    fn client_data(&mut self, octets: u64, complete: bool) -> io::Result<()> {
        let position = &mut self.position[Peer::Client as usize];
        *position = position.map(|position| position.saturating_add(octets));
        let end = if complete && octets >= 3 { &b".\r\n"[..] } else { b"" };
        let filled = self.allowance.take(octets - end.len() as u64);
        self.losses.filled = self.losses.filled.saturating_add(filled);
        self.speak(Peer::Client, |out, _| {
            filler::message(filled, 0, None, out)?;
            out.write_all(end)
        })
    }

    fn close(&mut self, closed: &Closed) -> io::Result<()> {
        for (peer, octets) in [(Peer::Client, closed.client_octets), (Peer::Upstream, closed.upstream_octets)] {
            self.reach(peer, octets);
        }
        let Some(tcp) = self.tcp.as_mut().filter(|_| !self.closed) else { return Ok(()) };
        self.closed = true;
        let first = if closed.by == "client" { Peer::Client } else { Peer::Upstream };
        if closed.by == "client" && closed.reason == "reset" { tcp.reset(first) } else { tcp.close(first) }
    }

    fn speak(&mut self, from: Peer, say: impl FnOnce(&mut dyn Write, &mut Allowance) -> io::Result<()>) -> io::Result<()> {
        let Some(tcp) = &mut self.tcp else { return Ok(()) };
        tcp.turn(from);
        say(tcp, &mut self.allowance)?;
        tcp.over()
    }

    /// A line passes: what should have been before it and is not in the record is jumped over.
    fn pass(&mut self, from: Peer, line: &Text) {
        self.reach(from, line.offset);
        self.position[from as usize] = Some(line.offset.saturating_add(line.octets));
    }

    fn reach(&mut self, from: Peer, offset: u64) {
        let missing = self.position[from as usize].map_or(0, |position| offset.saturating_sub(position));
        self.losses.missing = self.losses.missing.saturating_add(missing);
        if let Some(tcp) = self.tcp.as_mut().filter(|_| missing > 0) {
            tcp.miss(from, missing);
        }
    }
}

fn endpoints(body: &Body) -> Option<[SocketAddr; 2]> {
    let Body::Opened(Opened { client, listener, .. }) = body else { return None };
    Some([client.parse().ok()?, listener.parse().ok()?])
}

fn anywhere() -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0)
}

fn status_word(line: &Text, status: StatusWord) -> &'static str {
    if line.text.is_some() || status == StatusWord::Other { "" } else { status.word() }
}

/// Writes a line of the size that is recorded. What was withheld or left out becomes `x`; where none of its text is there, the
/// line begins with `begins`.
fn write_line(line: &Text, begins: &str, allowance: &mut Allowance, out: &mut dyn Write) -> io::Result<()> {
    let end = match line.line_end.as_deref() {
        None => &b"\r\n"[..],
        Some("lf") => b"\n",
        Some(_) => b"",
    };
    let altered = line.redacted.is_some() || line.cut;
    let mut text = line.text.as_deref().map_or_else(|| begins.as_bytes().to_vec(), octets_of);
    if altered {
        let room = usize::try_from(line.octets).unwrap_or(usize::MAX).saturating_sub(end.len());
        // A name's digest is longer than many a name.
        text.truncate(room);
        let parted = line.redacted.is_some() && !line.cut && text.last().is_some_and(|last| !last.is_ascii_whitespace());
        if parted && text.len() < room {
            text.push(b' ');
        }
    }
    out.write_all(&text)?;
    if altered {
        filler(allowance.take(line.octets.saturating_sub((text.len() + end.len()) as u64)), out)?;
    }
    out.write_all(end)
}

/// The octets of a text of the transcript; a text that is not of its making is taken as it stands.
fn octets_of(text: &str) -> Vec<u8> {
    unescape(text).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// Writes a body with its terminator, as many octets as are recorded and allowed; returns how many of them are filler.
fn body<W: Write>(content: &Content, kept: &mut Kept<'_>, allowance: &mut Allowance, out: &mut W) -> io::Result<u64> {
    let mut text = Stuffed::new(out);
    if content.policy.is_none() {
        listing(content, &mut text)?;
    } else if let Err(error) = kept.copy(&content.kept, &mut text) {
        // What was not kept, or is gone, becomes filler; but if it is the output that fails, that is the end.
        text.check(error)?;
    }
    let whole = text.taken() >= content.size;
    let (written, seen, at_line_start) = (text.written(), text.lines(), text.at_line_start());
    let left = content.octets.saturating_sub(written);
    let end = match (content.complete, left) {
        (false, _) | (_, 0 | 1) => &b""[..],
        (true, 2) => b".\n",
        (true, _) => b".\r\n",
    };
    let filled = if whole { 0 } else { allowance.take(left - end.len() as u64) };
    let lines = content.lines.saturating_sub(seen);
    match (content.policy.is_some(), written) {
        (true, 0) => filler::message(filled, lines, content.header_size, out)?,
        (true, _) if at_line_start => filler::rest(filled, lines, out)?,
        _ => filler::lines(filled, lines, out)?,
    }
    out.write_all(end)?;
    Ok(filled)
}

/// The lines of a listing that are known, up to the first that is withheld or cut.
fn listing<W: Write>(content: &Content, out: &mut Stuffed<'_, W>) -> io::Result<()> {
    for line in content.listing.iter().take_while(|line| *line != WITHHELD) {
        let line = octets_of(line);
        let room = content.size.saturating_sub(out.taken());
        if line.len() as u64 + 2 > room {
            break;
        }
        out.write_all(&line)?;
        out.write_all(b"\r\n")?;
        if line.len() >= LONGEST {
            break;
        }
    }
    Ok(())
}

/// What stands for a line of a listing that must not be shown.
const WITHHELD: &str = "[withheld]";

/// Octets of a listing's line that are recorded; one that has as many may have been longer.
const LONGEST: usize = 512;
