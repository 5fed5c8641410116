//! A scripted client: it says one of everything, waits for each reply, and trusts nothing that it gets.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    time::timeout,
};

use super::{
    dialogue::{PASSWORD, USER},
    mailbox::{Mailbox, Message, unstuff},
};
use crate::pop3::Capability;

/// How long the client waits for a line, or for its own to be taken.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line that it reads, in octets; the sample's are shorter.
const LINE_LIMIT: u64 = 64 * 1024;

/// What a session fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Messages retrieved whole, each of them counted as often as it came.
    pub messages: usize,
    /// Their octets, dot-stuffing removed.
    pub octets: usize,
}

/// Why a session was not as it should have been. Only commands, never their arguments, and replies are named.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The stream failed or ended, or nothing came in time.
    #[error("{during}: could not go on with the session")]
    Stream {
        /// The command in progress.
        during: String,
        /// What failed.
        source: io::Error,
    },
    /// A status line was another than the one expected.
    #[error("{during}: expected `{expected}`, got `{got}`")]
    Reply {
        /// The command that was answered.
        during: String,
        /// The beginning of the line that should have come.
        expected: String,
        /// The line that came, escaped.
        got: String,
    },
    /// The body of a reply is not what the mailbox holds.
    #[error("{during}: what arrived differs from the mailbox from octet {octet} on")]
    Content {
        /// The command that was answered.
        during: String,
        /// The first octet that differs, counted from 0.
        octet: usize,
    },
}

/// Holds one whole session over `stream` with a server of `mailbox`, and compares every octet of what it is sent.
///
/// Each message is retrieved once, and the first two again by pipelined commands.
///
/// # Errors
/// When the stream fails, a reply does not come within 30 seconds, or anything differs from what `mailbox` makes it.
pub async fn converse<S>(stream: S, mailbox: &Mailbox) -> Result<Fetched, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Client { stream: BufReader::new(stream), fetched: Fetched::default() };
    client.log_in().await?;
    client.survey(mailbox).await?;
    client.fetch(mailbox.messages()).await?;
    client.try_the_rest(mailbox.messages()).await?;
    client.quit().await?;
    Ok(client.fetched)
}

struct Client<S> {
    stream: BufReader<S>,
    fetched: Fetched,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn log_in(&mut self) -> Result<(), ClientError> {
        self.status("the greeting", "+OK").await?;
        self.say("CAPA").await?;
        let capabilities = self.listing("CAPA").await?;
        let pipelining = |line| Capability::parse(line).is("PIPELINING");
        if !capabilities.split_inclusive(|&octet| octet == b'\n').any(pipelining) {
            return Err(wrong("CAPA", "PIPELINING", &capabilities));
        }
        for (keyword, argument) in [("USER", USER), ("PASS", PASSWORD)] {
            self.say(&format!("{keyword} {argument}")).await?;
            self.status(keyword, "+OK").await?;
        }
        Ok(())
    }

    /// STAT, LIST, UIDL.
    async fn survey(&mut self, mailbox: &Mailbox) -> Result<(), ClientError> {
        self.say("STAT").await?;
        self.status("STAT", &format!("+OK {} {}", mailbox.messages().len(), mailbox.size())).await?;
        self.table("LIST", mailbox.messages(), |message| message.size().to_string()).await?;
        self.table("UIDL", mailbox.messages(), |message| message.uid().to_owned()).await
    }

    async fn table(&mut self, command: &str, messages: &[Message], column: fn(&Message) -> String) -> Result<(), ClientError> {
        let row = |(number, message): (usize, &Message)| format!("{number} {}\r\n", column(message));
        let rows: Vec<String> = (1..).zip(messages).map(row).collect();
        self.say(command).await?;
        let listing = self.listing(command).await?;
        same(command, &listing, rows.concat().as_bytes())
    }

    async fn fetch(&mut self, messages: &[Message]) -> Result<(), ClientError> {
        for (number, message) in (1..).zip(messages) {
            self.say(&format!("RETR {number}")).await?;
            self.message(number, message).await?;
        }
        Ok(())
    }

    /// TOP, NOOP, a command that no server knows, and two commands in one write (RFC 2449 §6.6).
    async fn try_the_rest(&mut self, messages: &[Message]) -> Result<(), ClientError> {
        if let [message, ..] = messages {
            self.say("TOP 1 5").await?;
            let top = self.listing("TOP 1 5").await?;
            same("TOP 1 5", &top, message.top(5))?;
        }
        for (command, expected) in [("NOOP", "+OK"), ("XYZZY", "-ERR")] {
            self.say(command).await?;
            self.status(command, expected).await?;
        }
        if let [first, second, ..] = messages {
            self.say("RETR 1\r\nRETR 2").await?;
            self.message(1, first).await?;
            self.message(2, second).await?;
        }
        Ok(())
    }

    /// After the reply to QUIT the server ends the connection.
    async fn quit(&mut self) -> Result<(), ClientError> {
        self.say("QUIT").await?;
        self.status("QUIT", "+OK").await?;
        let rest = self.line("QUIT").await?;
        if rest.is_empty() { Ok(()) } else { Err(wrong("QUIT", "the end of the connection", &rest)) }
    }

    /// The reply to RETR.
    async fn message(&mut self, number: usize, expected: &Message) -> Result<(), ClientError> {
        let command = format!("RETR {number}");
        let message = self.listing(&command).await?;
        same(&command, &message, expected.octets())?;
        self.fetched.messages += 1;
        self.fetched.octets += message.len();
        Ok(())
    }

    /// The body of a multi-line reply that begins with `+OK`, dot-stuffing removed.
    async fn listing(&mut self, during: &str) -> Result<Vec<u8>, ClientError> {
        self.status(during, "+OK").await?;
        let mut body = Vec::new();
        loop {
            let line = self.line(during).await?;
            if !line.ends_with(b"\n") {
                return Err(stream_failed(during)(io::ErrorKind::UnexpectedEof.into()));
            }
            match unstuff(&line) {
                Some(text) => body.extend_from_slice(text),
                None => return Ok(body),
            }
        }
    }

    /// A status line: `expected`, and then nothing or a blank and any text.
    async fn status(&mut self, during: &str, expected: &str) -> Result<(), ClientError> {
        let line = self.line(during).await?;
        let rest = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(expected.as_bytes()));
        match rest {
            Some([] | [b' ', ..]) => Ok(()),
            _ => Err(wrong(during, expected, &line)),
        }
    }

    /// A line with its end; without one where the stream ended, or where the line is over the limit.
    async fn line(&mut self, during: &str) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        in_time((&mut self.stream).take(LINE_LIMIT).read_until(b'\n', &mut line)).await.map_err(stream_failed(during))?;
        Ok(line)
    }

    async fn say(&mut self, line: &str) -> Result<(), ClientError> {
        let octets = format!("{line}\r\n");
        let sent = async {
            self.stream.write_all(octets.as_bytes()).await?;
            self.stream.flush().await
        };
        let keyword = line.split(' ').next().unwrap_or_default();
        in_time(sent).await.map_err(stream_failed(keyword))
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn same(during: &str, got: &[u8], expected: &[u8]) -> Result<(), ClientError> {
    if got == expected {
        return Ok(());
    }
    let octet = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
    Err(ClientError::Content { during: during.to_owned(), octet })
}

fn wrong(during: &str, expected: &str, got: &[u8]) -> ClientError {
    let got = got.trim_ascii_end().escape_ascii().to_string();
    ClientError::Reply { during: during.to_owned(), expected: expected.to_owned(), got }
}

fn stream_failed(during: &str) -> impl FnOnce(io::Error) -> ClientError {
    let during = during.to_owned();
    |source| ClientError::Stream { during, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::server::serve;
    use super::*;

    /// A server of `mailbox` and the client, which expects `expected`, over a pipe of this many octets.
    async fn meet(mailbox: Mailbox, expected: &Mailbox, pipe: usize) -> Result<Fetched, ClientError> {
        let (near, far) = tokio::io::duplex(pipe);
        let server = tokio::spawn(serve(far, Arc::new(mailbox)));
        let result = converse(near, expected).await;
        timeout(PATIENCE, server).await.unwrap().unwrap().unwrap();
        result
    }

    #[tokio::test]
    async fn the_whole_sample_arrives() {
        let sample = Mailbox::sample();
        let fetched = meet(Mailbox::sample(), &sample, 1000).await.unwrap();
        let again = sample.messages()[0].size() + sample.messages()[1].size();
        assert_eq!(fetched, Fetched { messages: sample.messages().len() + 2, octets: sample.size() + again });
    }

    #[tokio::test]
    async fn an_empty_mailbox_is_no_fault() {
        assert_eq!(meet(Mailbox::new(vec![]), &Mailbox::new(vec![]), 7).await.unwrap(), Fetched::default());
    }

    #[tokio::test]
    async fn one_changed_octet_is_found() {
        let with = |text: &[u8]| Mailbox::new(vec![Message::new("a", b"S: a\n\n"), Message::new("b", text)]);
        let error = meet(with(b"S: b\n\n.one\n"), &with(b"S: b\n\n.onE\n"), 1 << 16).await.unwrap_err();
        assert_eq!(error.to_string(), "RETR 2: what arrived differs from the mailbox from octet 11 on");
    }

    #[tokio::test]
    async fn a_missing_message_is_found() {
        let error = meet(Mailbox::new(vec![]), &Mailbox::sample(), 1 << 16).await.unwrap_err();
        assert!(error.to_string().starts_with("STAT: expected `+OK 6 "), "{error}");
    }

    /// A server that says these lines whatever it hears, and then ends the stream.
    async fn hear(lines: &[u8]) -> ClientError {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(lines).await.unwrap();
        far.shutdown().await.unwrap();
        converse(near, &Mailbox::new(vec![])).await.unwrap_err()
    }

    #[tokio::test]
    async fn faults_are_named() {
        for (lines, error) in [
            (&b""[..], "the greeting: expected `+OK`, got ``"),
            (b"-ERR [SYS/TEMP] no\r\n", r"the greeting: expected `+OK`, got `-ERR [SYS/TEMP] no`"),
            (b"+OKAY\r\n", "the greeting: expected `+OK`, got `+OKAY`"),
            (b"+OK\n", "the greeting: expected `+OK`, got `+OK`"),
            (b"+OK\r\n+OK\r\nTOP\r\n.\r\n", r"CAPA: expected `PIPELINING`, got `TOP`"),
            (b"+OK\r\n+OK\r\nPIPELINING\r\n.", "CAPA: could not go on with the session"),
            (b"+OK\r\n+OK\r\nPIPELINING\r\n.\r\n+OK\r\n-ERR \x1b[2J\r\n", r"PASS: expected `+OK`, got `-ERR \x1b[2J`"),
        ] {
            assert_eq!(hear(lines).await.to_string(), error);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let error = converse(near, &Mailbox::new(vec![])).await.unwrap_err();
        assert!(matches!(error, ClientError::Stream { source, .. } if source.kind() == io::ErrorKind::TimedOut));
    }
}
