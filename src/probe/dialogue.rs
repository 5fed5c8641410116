//! Commands and their replies, one at a time, each within a time limit.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{config::Period, escape::escape_line, pop3::Status};

/// The longest line that is read: eight times what RFC 2449 §4 allows.
const LINE_LIMIT: usize = 4096;
/// The most lines of a listing.
const LISTING_LIMIT: usize = 200;

/// A session that asks and waits.
pub(super) struct Dialogue<S> {
    io: BufReader<S>,
    limit: Duration,
}

/// A single-line reply.
pub(super) enum Answer {
    /// `+OK`
    Ok(Vec<u8>),
    /// `-ERR`
    Err(Vec<u8>),
}

impl Answer {
    /// The whole line.
    pub(super) fn line(&self) -> &[u8] {
        let (Self::Ok(line) | Self::Err(line)) = self;
        line
    }
}

/// Why a reply did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it did not answer within {}", Period(*.0))]
    TimedOut(Duration),
    #[error("it closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("its answer is longer than {LINE_LIMIT} octets a line, or {LISTING_LIMIT} lines")]
    TooLong,
    #[error("it answered `{0}`, which is not POP3")]
    NotPop3(String),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    /// Behind the greeting; `limit` is for each reply.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { io: BufReader::new(stream), limit }
    }

    /// CAPA's listing (RFC 2449 §5), escaped; `None` when the server does not know it.
    pub(super) async fn capabilities(&mut self) -> Result<Option<Vec<String>>, Broken> {
        let limit = self.limit;
        let listing = async {
            match self.exchange("CAPA", b"").await? {
                Answer::Ok(_) => self.listing().await.map(Some),
                Answer::Err(_) => Ok(None),
            }
        };
        timeout(limit, listing).await.map_err(|_| Broken::TimedOut(limit))?
    }

    /// Sends one command and reads the first line of its reply.
    pub(super) async fn ask(&mut self, keyword: &str, argument: &[u8]) -> Result<Answer, Broken> {
        let limit = self.limit;
        timeout(limit, self.exchange(keyword, argument)).await.map_err(|_| Broken::TimedOut(limit))?
    }

    /// Leaves. Whether that arrives does not matter: nothing was deleted.
    pub(super) async fn quit(mut self) {
        let _ = timeout(FAREWELL.min(self.limit), self.exchange("QUIT", b"")).await;
        let _ = timeout(FAREWELL, self.io.shutdown()).await;
    }

    async fn exchange(&mut self, keyword: &str, argument: &[u8]) -> Result<Answer, Broken> {
        let mut command = Zeroizing::new(Vec::with_capacity(keyword.len() + argument.len() + 3));
        command.extend_from_slice(keyword.as_bytes());
        if !argument.is_empty() {
            command.push(b' ');
            command.extend_from_slice(argument);
        }
        command.extend_from_slice(b"\r\n");
        self.io.write_all(&command).await?;
        self.io.flush().await?;
        let line = self.line().await?;
        match Status::of(&line) {
            Some(Status::Ok) => Ok(Answer::Ok(line)),
            Some(Status::Err) => Ok(Answer::Err(line)),
            Some(Status::Continue) | None => Err(Broken::NotPop3(escape_line(&line))),
        }
    }

    /// The lines up to `.` alone on one (RFC 1939 §3).
    async fn listing(&mut self) -> Result<Vec<String>, Broken> {
        let mut lines = Vec::new();
        while lines.len() < LISTING_LIMIT {
            let line = self.line().await?;
            match line.strip_prefix(b".") {
                Some(b"\r\n" | b"\n") => return Ok(lines),
                Some(unstuffed) => lines.push(escape_line(unstuffed)),
                None => lines.push(escape_line(&line)),
            }
        }
        Err(Broken::TooLong)
    }

    async fn line(&mut self) -> Result<Vec<u8>, Broken> {
        let mut line = Vec::new();
        (&mut self.io).take(LINE_LIMIT as u64).read_until(b'\n', &mut line).await?;
        match line.last() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() == LINE_LIMIT => Err(Broken::TooLong),
            _ => Err(Broken::Closed),
        }
    }
}

/// How long a server may take to answer QUIT before it is left.
const FAREWELL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(7);

    /// Both ends, the server having said this already.
    async fn facing(says: &[u8]) -> (Dialogue<DuplexStream>, DuplexStream) {
        let (ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(says).await.unwrap();
        (Dialogue::new(ours, LIMIT), theirs)
    }

    #[tokio::test]
    async fn a_listing_is_read_escaped_and_unstuffed() {
        let (mut dialogue, _server) = facing(b"+OK\r\nTOP\r\n..x\r\nSASL \x1b[31m\n.\r\n").await;
        let lines = dialogue.capabilities().await.unwrap().unwrap();
        assert_eq!(lines, ["TOP", ".x", "SASL \\x1b[31m"]);
        let (mut dialogue, _server) = facing(b"-ERR what?\r\n").await;
        assert_eq!(dialogue.capabilities().await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_cannot_keep_us() {
        let endless = [b"+OK\r\n".as_slice(), &b"x\r\n".repeat(LISTING_LIMIT + 1)].concat();
        for (says, expected) in [
            (b"".as_slice(), "it did not answer within 7s"),
            (b"+OK\r\nTOP\r\n", "it did not answer within 7s"),
            (&[b'x'; LINE_LIMIT], "is longer than"),
            (&endless, "is longer than"),
            (b"HTTP/1.1 \x07\r\n", "it answered `HTTP/1.1 \\x07`, which is not POP3"),
        ] {
            let (mut dialogue, _server) = facing(says).await;
            let broken = dialogue.capabilities().await.unwrap_err().to_string();
            assert!(broken.contains(expected), "{broken}");
        }
        let (mut dialogue, server) = facing(b"+OK").await;
        drop(server);
        assert!(dialogue.ask("STAT", b"").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_is_bounded_and_polite() {
        let (dialogue, mut server) = facing(b"").await;
        dialogue.quit().await;
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"QUIT\r\n");
    }
}
