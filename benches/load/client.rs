//! A POP3 client that checks what it is told.

use std::io;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    maildrop::{Maildrop, Message},
    transport::{Connector, Stream},
};

pub(crate) struct Client {
    pub(crate) stream: Stream,
    buffer: Box<[u8]>,
    /// Octets of `buffer` that were read and not yet used: `start <= end <= buffer.len()`.
    start: usize,
    end: usize,
}

impl Client {
    /// Connects and logs in. `buffer` octets are read at most at a time.
    pub(crate) async fn login(to: &Connector, buffer: usize) -> Result<Self> {
        let stream = to.connect().await.context("cannot connect")?;
        let mut client = Self { stream, buffer: vec![0; buffer].into(), start: 0, end: 0 };
        client.status().await.context("no greeting")?;
        client.command("USER bench").await?;
        client.command("PASS bench-secret").await?;
        Ok(client)
    }

    /// Sends a command, and reads its status line.
    pub(crate) async fn command(&mut self, line: &str) -> Result<()> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.status().await.with_context(|| format!("no answer to {line}"))
    }

    async fn status(&mut self) -> Result<()> {
        let mut line = Vec::new();
        loop {
            let unread = self.unread().await?;
            let end = memchr::memchr(b'\n', unread);
            let part = &unread[..end.map_or(unread.len(), |end| end + 1)];
            line.extend_from_slice(part);
            self.start += part.len();
            ensure!(line.len() <= 512, "a status line that does not end");
            if end.is_some() {
                break;
            }
        }
        ensure!(line.starts_with(b"+OK"), "the answer was {}", line.escape_ascii());
        Ok(())
    }

    /// Sends a command whose reply must be `expected`.
    pub(crate) async fn expect(&mut self, line: &str, expected: &str) -> Result<()> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        let mut rest = expected.as_bytes();
        while !rest.is_empty() {
            let unread = self.unread().await?;
            let count = unread.len().min(rest.len());
            ensure!(unread[..count] == rest[..count], "another reply to {line}: {}", unread.escape_ascii());
            rest = &rest[count..];
            self.start += count;
        }
        Ok(())
    }

    /// Sends a command, and reads its listing: its lines depend on a size that the client was not told.
    pub(crate) async fn listing(&mut self, line: &str) -> Result<()> {
        self.command(line).await?;
        let mut found = Vec::new();
        while !found.ends_with(b"\r\n.\r\n") {
            let unread = self.unread().await?;
            found.extend_from_slice(unread);
            self.start = self.end;
            ensure!(found.len() <= 4096, "a listing that does not end");
        }
        Ok(())
    }

    /// Fetches a message, and compares every octet of it, or with `check` unset its number and its end.
    pub(crate) async fn retr(&mut self, mail: &Maildrop, number: usize, check: bool) -> Result<()> {
        let message = mail.message(number).context("no such message")?;
        self.expect(&format!("RETR {number}"), &message.status()).await?;
        self.content(message, check).await
    }

    async fn content(&mut self, message: &Message, check: bool) -> Result<()> {
        let octets = message.octets();
        let mut at = 0;
        while at < octets {
            let unread = self.unread().await.with_context(|| format!("{at} octets into the message"))?;
            let piece = &unread[..unread.len().min(octets - at)];
            // The end is compared always.
            let skipped = if check { 0 } else { piece.len().min((octets - 5).saturating_sub(at)) };
            ensure!(message.is_at(at + skipped, &piece[skipped..]), "other octets, {at} octets into the message");
            at += piece.len();
            self.start += piece.len();
        }
        Ok(())
    }

    /// Says QUIT, and waits for the end of the connection.
    pub(crate) async fn quit(mut self) -> Result<()> {
        self.command("QUIT").await?;
        // Some servers and proxies end TLS without saying so.
        let count = self.stream.read(&mut self.buffer).await.unwrap_or_default();
        ensure!(count == 0, "octets after the answer to QUIT");
        let _ = self.stream.shutdown().await;
        Ok(())
    }

    /// What was read and not yet used; reads more if that is nothing.
    pub(crate) async fn unread(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = self.stream.read(&mut self.buffer).await?;
            if self.end == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// The stream, when nothing of it is unread.
    pub(crate) fn into_stream(self) -> Result<Stream> {
        ensure!(self.start == self.end, "octets that no command asked for");
        Ok(self.stream)
    }
}
