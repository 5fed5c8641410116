//! The server's side of connections: lines in, recorded answers out.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Sender, channel},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Answer, Begin, Cursor, Found, Message, Pace, Script, pace::Spread, script::Timed};
use crate::{
    escape::escape,
    inspect::Kept,
    net::Stream,
    pop3::{Command, Keyword},
    tls::Acceptor,
};

/// Sessions at one time; further clients wait to be accepted.
const SESSIONS: usize = 64;
/// A line of the client's has at most this many octets, its end included.
const LINE: usize = 8 * 1024;
/// Nobody is waited for longer than this.
const INACTIVITY: Duration = Duration::from_secs(600);
/// TLS stands within this time.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// What a client still sends at the end is read and dropped for this long, up to [`LINGER_OCTETS`].
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: u64 = 64 * 1024;
/// A message goes out in pieces of this size; four of them are in memory.
const PIECE: usize = 64 * 1024;
/// Octets of a line that are told of.
const TOLD: usize = 80;

/// Who may begin TLS, and how.
pub enum Security {
    /// Nobody: all is played in clear.
    Clear,
    /// It stands before the greeting.
    Implicit(Acceptor),
    /// STLS is offered.
    Stls(Acceptor),
}

/// What is played, and what became of it.
pub struct Stage {
    /// The session.
    pub script: Script,
    /// The store with its content.
    pub directory: PathBuf,
    /// How fast.
    pub pace: Pace,
    /// TLS.
    pub security: Security,
    /// Octets of a message that are made up at most.
    pub made_up: u64,
    /// What was heard, counted.
    pub heard: Heard,
}

/// Counters.
#[derive(Debug, Default)]
pub struct Heard {
    /// Clients that came.
    pub clients: AtomicU64,
    /// Commands of theirs.
    pub commands: AtomicU64,
    /// Of these, those that were not recorded.
    pub unrecorded: AtomicU64,
}

/// Is told what goes on, a line of harmless text each time.
pub type Tell = dyn Fn(&str) + Send + Sync;

/// Plays to everybody who connects; with `once`, to one client, and returns when that has left.
///
/// It goes on until it is dropped. At most 64 sessions are served at one time.
///
/// # Errors
///
/// When the listener fails. What goes wrong in a session ends that session only.
pub async fn serve(listener: TcpListener, stage: Arc<Stage>, once: bool, tell: Arc<Tell>) -> io::Result<()> {
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        if sessions.len() >= SESSIONS {
            sessions.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, address)) => {
                let session = session(stream, address, Arc::clone(&stage), Arc::clone(&tell));
                if once {
                    return {
                        session.await;
                        Ok(())
                    };
                }
                sessions.spawn(session);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn session(stream: TcpStream, address: SocketAddr, stage: Arc<Stage>, tell: Arc<Tell>) {
    let number = stage.heard.clients.fetch_add(1, Ordering::Relaxed) + 1;
    tell(&format!("client {number}: connected from {address}"));
    let how = match play(Stream::new(stream), &stage, &*tell, number).await {
        Ok(()) => "over".to_owned(),
        Err(error) => format!("over: {error}"),
    };
    tell(&format!("client {number}: {how}"));
}

async fn play(stream: Stream, stage: &Arc<Stage>, tell: &Tell, number: u64) -> io::Result<()> {
    let mut cursor = Cursor::new(&stage.script);
    let (stream, begin) = match &stage.security {
        Security::Clear => (stream, Begin::Never),
        Security::Implicit(acceptor) => (secure(stream, acceptor).await?, Begin::Stands),
        Security::Stls(_) => (stream, Begin::Offered),
    };
    cursor.begin = begin;
    let mut client = Client { stream: BufReader::with_capacity(LINE, stream), stage, tell, number };
    let mut next = client.say(&stage.script.greeting_line()).await;
    loop {
        next = match (next, &stage.security) {
            (Ok(Next::Command), _) => client.converse(&mut cursor).await,
            (Ok(Next::Tls), Security::Stls(acceptor)) => {
                client = client.secured(acceptor).await?;
                cursor.begin = Begin::Stands;
                Ok(Next::Command)
            }
            (next, _) => {
                let _ = client.end().await;
                return next.map(drop);
            }
        }
    }
}

/// Does the handshake; the connection is closed where that fails.
async fn secure(stream: Stream, acceptor: &Acceptor) -> io::Result<Stream> {
    match timeout(HANDSHAKE, stream.accept(acceptor)).await {
        Ok(accepted) => accepted.map_err(|error| io::Error::other(error.to_string())),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took longer than 30 seconds")),
    }
}

/// What comes behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Command,
    Tls,
    End,
}

/// One client.
struct Client<'a> {
    stream: BufReader<Stream>,
    stage: &'a Arc<Stage>,
    tell: &'a Tell,
    number: u64,
}

impl Client<'_> {
    /// A command and its answer.
    async fn converse(&mut self, cursor: &mut Cursor<'_>) -> io::Result<Next> {
        let Some(line) = self.line().await? else { return Ok(Next::End) };
        let heard = &self.stage.heard;
        heard.commands.fetch_add(1, Ordering::Relaxed);
        let found = cursor.answer(&line);
        self.told(&line, &found);
        match found {
            Found::Recorded(_, answer) => self.say(&answer).await,
            Found::Unrecorded(answer) => {
                heard.unrecorded.fetch_add(1, Ordering::Relaxed);
                self.say(&answer).await
            }
            Found::Unanswered { closed: true, .. } => Ok(Next::End),
            Found::Unanswered { .. } => self.be_silent().await,
        }
    }

    /// TLS, in which the session goes on. [`Self::say`] has seen to it that no octet from before is left.
    async fn secured(self, acceptor: &Acceptor) -> io::Result<Self> {
        let stream = secure(self.stream.into_inner(), acceptor).await?;
        Ok(Self { stream: BufReader::with_capacity(LINE, stream), ..self })
    }

    /// Gives an answer; returns how the session goes on behind it.
    async fn say(&mut self, answer: &Answer) -> io::Result<Next> {
        for challenge in &answer.challenges {
            self.send(challenge).await?;
            let Some(response) = self.line().await? else { return Ok(Next::End) };
            if response == b"*" && answer.status.starts_with(b"+OK") {
                self.send(b"-ERR cancelled\r\n").await?;
                return Ok(Next::Command);
            }
        }
        if answer.then_tls && !self.stream.buffer().is_empty() {
            // Inside TLS it would be taken for what the client had said there (RFC 2595 §4).
            self.send(b"-ERR nothing may be sent between STLS and TLS\r\n").await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "octets in plain text behind STLS"));
        }
        if let Some(Timed { line, delay_us }) = &answer.go_ahead {
            self.wait(*delay_us).await;
            self.send(line).await?;
            if !self.hear_message().await? {
                return Ok(Next::End);
            }
        }
        self.wait(answer.delay_us).await;
        self.send(&answer.status).await?;
        self.body(answer).await?;
        for Timed { line, delay_us } in &answer.after {
            // It came before the client's next command, so it does not wait until the client has spoken.
            let wait = self.stage.pace.wait(*delay_us);
            if !wait.is_zero() {
                let _ = timeout(wait, self.stream.fill_buf()).await;
            }
            self.send(line).await?;
        }
        Ok(match answer {
            Answer { then_close: true, .. } => Next::End,
            Answer { then_tls: true, .. } => Next::Tls,
            _ => Next::Command,
        })
    }

    async fn wait(&self, recorded_us: u64) {
        let wait = self.stage.pace.wait(recorded_us);
        // Even no time at all is rounded up to a millisecond.
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    async fn body(&mut self, answer: &Answer) -> io::Result<()> {
        let pace = self.stage.pace;
        if let Some(listing) = &answer.listing {
            self.spread(listing, &mut pace.spread(listing.len() as u64, answer.lasts_us)).await?;
        }
        if let Some(message) = &answer.message {
            self.message(message.clone(), pace.spread(message.octets(), answer.lasts_us)).await?;
        }
        Ok(())
    }

    /// Reads the client's message, and drops it; returns whether it was whole.
    async fn hear_message(&mut self) -> io::Result<bool> {
        let (mut line, mut is_line_start) = (Vec::new(), true);
        loop {
            line.clear();
            in_time((&mut self.stream).take(LINE as u64).read_until(b'\n', &mut line)).await?;
            match line.as_slice() {
                [] => return Ok(false),
                b".\r\n" | b".\n" if is_line_start => return Ok(true),
                line => is_line_start = line.ends_with(b"\n"),
            }
        }
    }

    /// The store is read on a thread of its own, since files block.
    async fn message(&mut self, message: Message, mut spread: Spread) -> io::Result<()> {
        let (sender, mut pieces) = channel(2);
        let (directory, most) = (self.stage.directory.clone(), self.stage.made_up);
        let reading = tokio::task::spawn_blocking(move || {
            let mut out = Pieces { sender, piece: Vec::with_capacity(PIECE) };
            let missing = message.write(&mut Kept::new(&directory), most, &mut out)?;
            out.flush().map(|()| missing)
        });
        while let Some(piece) = pieces.recv().await {
            self.spread(&piece, &mut spread).await?;
        }
        let missing = reading.await.map_err(io::Error::other)??;
        if missing > 0 {
            (self.tell)(&format!("client {}: {missing} octets of the message were not made up: see --max-octets", self.number));
        }
        Ok(())
    }

    async fn spread(&mut self, mut octets: &[u8], spread: &mut Spread) -> io::Result<()> {
        while !octets.is_empty() {
            let (piece, rest) = octets.split_at(spread.piece(octets.len()));
            spread.due(piece.len()).await;
            self.send(piece).await?;
            octets = rest;
        }
        Ok(())
    }

    /// No answer was recorded, and none comes.
    async fn be_silent(&mut self) -> io::Result<Next> {
        while self.line().await?.is_some() {}
        Ok(Next::End)
    }

    /// The next line, without its end; `None` at the end of the stream.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        in_time((&mut self.stream).take(LINE as u64).read_until(b'\n', &mut line)).await?;
        match line.pop() {
            Some(b'\n') => {
                line.pop_if(|octet| *octet == b'\r');
                Ok(Some(line))
            }
            Some(_) if line.len() + 1 == LINE => Err(io::Error::new(io::ErrorKind::InvalidData, "a line of more than 8 KiB")),
            _ => Ok(None),
        }
    }

    async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        in_time(self.stream.write_all(octets)).await?;
        in_time(self.stream.flush()).await
    }

    /// Ends the connection so that what was said last arrives: closing it with input unread would reset it.
    async fn end(self) -> io::Result<()> {
        let mut stream = self.stream;
        in_time(stream.shutdown()).await?;
        let _ = timeout(LINGER, tokio::io::copy(&mut stream.take(LINGER_OCTETS), &mut tokio::io::sink())).await;
        Ok(())
    }

    fn told(&self, line: &[u8], found: &Found) {
        let answer = match found {
            Found::Recorded(n, _) => format!("answered as command {n} was"),
            Found::Unanswered { n, closed: true } => format!("not answered, as command {n} was not: closed"),
            Found::Unanswered { n, .. } => format!("not answered, as command {n} was not"),
            Found::Unrecorded(answer) => format!("not in the recording: {}", escape(answer.status.trim_ascii_end())),
        };
        (self.tell)(&format!("client {}: {}: {answer}", self.number, shown(line)));
    }
}

/// A command as it may be shown: what follows the keyword may be a secret.
fn shown(line: &[u8]) -> String {
    use Keyword::{Capa, Dele, Lang, Last, List, Noop, Quit, Retr, Rset, Stat, Stls, Top, Uidl, Utf8};
    let command = Command::parse(line);
    match command.keyword {
        Capa | Dele | Lang | Last | List | Noop | Quit | Retr | Rset | Stat | Stls | Top | Uidl | Utf8 => {
            escape(&line[..line.len().min(TOLD)])
        }
        Keyword::Unknown => "a command that poptap does not know".to_owned(),
        keyword => keyword.name().to_owned(),
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the client was inactive for ten minutes");
    timeout(INACTIVITY, work).await.unwrap_or_else(|_| Err(late()))
}

/// Hands on what is written, in pieces; waits while the client takes none.
struct Pieces {
    sender: Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(octets);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_told() {
        for (line, expected) in [
            (&b"RETR 1"[..], "RETR 1"),
            (b"PASS hunter2", "PASS"),
            (b"user joe", "USER"),
            (b"AUTH PLAIN AGpvZQBodW50ZXIy", "AUTH"),
            (b"hunter2", "a command that poptap does not know"),
            (b"list \x1b[2J", "list \\x1b[2J"),
        ] {
            assert_eq!(shown(line), expected);
        }
    }
}
