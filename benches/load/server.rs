//! The mail server: any login, three messages, and all the commands of one read answered by one write.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    maildrop::Maildrop,
    transport::{self, Acceptor, Stream},
};

/// Says where it listens, and goes on for ever.
pub(crate) async fn run(acceptor: Acceptor, mail: Maildrop) -> Result<()> {
    let listener = transport::listen().await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, acceptor, mail).await
}

pub(crate) async fn serve(listener: tokio::net::TcpListener, acceptor: Acceptor, mail: Maildrop) -> Result<()> {
    let mail = Arc::new(mail);
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, mail) = (acceptor.clone(), Arc::clone(&mail));
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            stream.write_all(b"+OK ready\r\n").await?;
            stream.flush().await?;
            let mut session = Session { stream, mail, answers: Vec::new() };
            // A session that breaks off is seen at its other end.
            session.converse().await
        });
    }
}

/// What is read at once at first, since most sessions send little, and at most.
const READ: (usize, usize) = (256, 64 * 1024);

struct Session {
    stream: Stream,
    mail: Arc<Maildrop>,
    /// Not yet written. Bounded by the answers to what one read brought, or what a listing takes.
    answers: Vec<u8>,
}

impl Session {
    async fn converse(&mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; READ.0];
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut buffer[filled..]).await?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
            let mut start = 0;
            while let Some(end) = memchr::memchr(b'\n', &buffer[start..filled]) {
                let line = &buffer[start..start + end];
                start += end + 1;
                if !self.answer(line).await? {
                    return self.stream.shutdown().await;
                }
            }
            self.flush().await?;
            buffer.copy_within(start..filled, 0);
            filled -= start;
            if start + filled == buffer.len() && buffer.len() < READ.1 {
                buffer.resize(READ.1, 0);
            }
            if filled == buffer.len() {
                return Err(std::io::Error::other("a line too long"));
            }
        }
    }

    /// Answers a command; false when it was the last.
    async fn answer(&mut self, line: &[u8]) -> std::io::Result<bool> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            b"NOOP" => self.answers.extend(b"+OK\r\n"),
            b"STAT" => self.answers.extend(self.mail.stat().bytes()),
            b"LIST" => self.answers.extend(self.mail.list().bytes()),
            b"UIDL" => self.answers.extend(self.mail.uidl().bytes()),
            b"CAPA" => self.answers.extend(b"+OK\r\nUSER\r\nUIDL\r\nPIPELINING\r\n.\r\n"),
            b"QUIT" => {
                self.answers.extend(b"+OK goodbye\r\n");
                self.flush().await?;
                return Ok(false);
            }
            _ if line.starts_with(b"USER ") || line.starts_with(b"PASS ") => self.answers.extend(b"+OK\r\n"),
            _ => self.retr(line).await?,
        }
        Ok(true)
    }

    async fn retr(&mut self, line: &[u8]) -> std::io::Result<()> {
        let number = line.strip_prefix(b"RETR ").and_then(|number| str::from_utf8(number).ok()?.parse().ok());
        let mail = Arc::clone(&self.mail);
        let Some(message) = number.and_then(|number| mail.message(number)) else {
            self.answers.extend(b"-ERR no\r\n");
            return Ok(());
        };
        self.answers.extend(message.status().bytes());
        for piece in message.pieces() {
            if piece.len() < READ.1 {
                self.answers.extend(piece);
            } else {
                self.write().await?;
                self.stream.write_all(piece).await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.write().await?;
        self.stream.flush().await
    }

    async fn write(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.answers).await?;
        self.answers.clear();
        // A session that waits holds no large buffer.
        self.answers.shrink_to(READ.1);
        Ok(())
    }
}
