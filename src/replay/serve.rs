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

use super::{Answer, Cursor, Found, Message, Script};
use crate::{
    escape::escape,
    inspect::Kept,
    pop3::{Command, Keyword},
};

/// Sessions at one time; further clients wait to be accepted.
const SESSIONS: usize = 64;
/// A line of the client's has at most this many octets, its end included.
const LINE: usize = 8 * 1024;
/// Nobody is waited for longer than this.
const INACTIVITY: Duration = Duration::from_secs(600);
/// What a client still sends at the end is read and dropped for this long, up to [`LINGER_OCTETS`].
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: u64 = 64 * 1024;
/// A message goes out in pieces of this size; four of them are in memory.
const PIECE: usize = 64 * 1024;
/// Octets of a line that are told of.
const TOLD: usize = 80;

/// How fast it is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every answer comes as soon as it can.
    Fast,
    /// Every answer takes as long as it took, and at most so long.
    Recorded {
        /// The longest wait.
        most: Duration,
    },
}

/// What is played, and what became of it.
pub struct Stage {
    /// The session.
    pub script: Script,
    /// The store with its content.
    pub directory: PathBuf,
    /// How fast.
    pub pace: Pace,
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
    // Small answers must not wait for acknowledgements (Nagle).
    let _ = stream.set_nodelay(true);
    let mut client = Client { stream: BufReader::with_capacity(LINE, stream), stage: &stage, tell: &*tell, number };
    let how = match client.converse().await {
        Ok(()) => "over".to_owned(),
        Err(error) => format!("over: {error}"),
    };
    let _ = client.end().await;
    tell(&format!("client {number}: {how}"));
}

/// One client.
struct Client<'a> {
    stream: BufReader<TcpStream>,
    stage: &'a Arc<Stage>,
    tell: &'a Tell,
    number: u64,
}

impl Client<'_> {
    async fn converse(&mut self) -> io::Result<()> {
        let stage = Arc::clone(self.stage);
        let mut cursor = Cursor::new(&stage.script);
        let greeting = stage.script.greeting_line();
        let mut goes_on = self.say(&greeting).await?;
        while goes_on {
            let Some(line) = self.line().await? else { return Ok(()) };
            stage.heard.commands.fetch_add(1, Ordering::Relaxed);
            let found = cursor.answer(&line);
            self.told(&line, &found);
            goes_on = match found {
                Found::Recorded(_, answer) => self.say(&answer).await?,
                Found::Unrecorded(answer) => {
                    stage.heard.unrecorded.fetch_add(1, Ordering::Relaxed);
                    self.say(&answer).await?
                }
                Found::Unanswered { closed: true, .. } => false,
                Found::Unanswered { .. } => self.be_silent().await?,
            };
        }
        Ok(())
    }

    /// Gives an answer; returns whether the session goes on behind it.
    async fn say(&mut self, answer: &Answer) -> io::Result<bool> {
        for challenge in &answer.challenges {
            self.send(challenge).await?;
            let Some(response) = self.line().await? else { return Ok(false) };
            if response == b"*" && answer.status.starts_with(b"+OK") {
                self.send(b"-ERR cancelled\r\n").await?;
                return Ok(true);
            }
        }
        if let Pace::Recorded { most } = self.stage.pace {
            sleep(Duration::from_micros(answer.delay_us).min(most)).await;
        }
        self.send(&answer.status).await?;
        if let Some(listing) = &answer.listing {
            self.send(listing).await?;
        }
        if let Some(message) = &answer.message {
            self.message(message.clone()).await?;
        }
        Ok(!answer.then_close)
    }

    /// The store is read on a thread of its own, since files block.
    async fn message(&mut self, message: Message) -> io::Result<()> {
        let (sender, mut pieces) = channel(2);
        let directory = self.stage.directory.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut out = Pieces { sender, piece: Vec::with_capacity(PIECE) };
            message.write(&mut Kept::new(&directory), &mut out).and_then(|()| out.flush())
        });
        while let Some(piece) = pieces.recv().await {
            self.send(&piece).await?;
        }
        reading.await.map_err(io::Error::other)?
    }

    /// No answer was recorded, and none comes.
    async fn be_silent(&mut self) -> io::Result<bool> {
        while self.line().await?.is_some() {}
        Ok(false)
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
        in_time(self.stream.write_all(octets)).await
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
