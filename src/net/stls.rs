//! STLS as the client, failing closed (RFC 2595 §4).
//!
//! The one thing that is ever sent in plain text is `STLS`. Every octet that the server sends in plain text may be an
//! attacker's, and one that stood in a buffer when TLS begins would be taken for the server's own: so each line must come
//! alone, and any surplus ends the attempt.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::escape::escape_line;

/// The longest line that a server may send before TLS: eight times what RFC 2449 §4 allows, and no more than every flow takes
/// in front of what it reads.
pub(super) const LINE_LIMIT: usize = crate::tap::SMALL;

/// Where in the dialogue something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The server's first line.
    Greeting,
    /// Its reply to STLS.
    Reply,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Greeting => "its greeting",
            Self::Reply => "its reply to STLS",
        }
    }
}

/// Why TLS was not even begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StlsFault {
    /// The server closed the connection in place of a line.
    #[error("it closed the connection before {} was complete", .0.words())]
    Closed(Step),
    /// The connection failed.
    #[error("the connection failed before {} was complete: {cause}", step.words())]
    Io {
        /// Where.
        step: Step,
        /// Why.
        cause: io::Error,
    },
    /// A line without end.
    #[error("{} is longer than {LINE_LIMIT} octets", .0.words())]
    TooLong(Step),
    /// `-ERR` in place of a greeting: it does not want to serve now. The text is escaped.
    #[error("it refused the session: `{0}`")]
    Refused(String),
    /// A greeting that is neither `+OK` nor `-ERR`. The text is escaped.
    #[error("its greeting is not POP3: `{0}`")]
    NotPop3(String),
    /// A reply to STLS that is not `+OK`. The text is escaped.
    #[error("it refused STLS: `{0}`")]
    StlsRefused(String),
    /// Octets in plain text behind a line that must come alone.
    #[error("it sent octets in plain text behind {}, where nothing may be sent before TLS", .0.words())]
    Injected(Step),
}

/// Reads the server's greeting: one line, byte for byte, and nothing behind it.
pub(super) async fn greeting<S: AsyncRead + Unpin>(io: &mut S) -> Result<Vec<u8>, StlsFault> {
    let line = read_line(io, Step::Greeting).await?;
    judged(&line).map(|()| line)
}

/// Reads until the server's greeting is there, and whatever comes with it; `octets` holds all of that, at most [`LINE_LIMIT`].
pub(super) async fn await_greeting<S: AsyncRead + Unpin>(io: &mut S, octets: &mut Vec<u8>) -> Result<(), StlsFault> {
    octets.reserve(512);
    loop {
        if let Some(end) = memchr::memchr(b'\n', octets) {
            return judged(&octets[..=end]);
        }
        let room = LINE_LIMIT - octets.len();
        if room == 0 {
            return Err(StlsFault::TooLong(Step::Greeting));
        }
        match (&mut *io).take(room as u64).read_buf(octets).await {
            Ok(0) => return Err(StlsFault::Closed(Step::Greeting)),
            Ok(_) => {}
            Err(cause) => return Err(StlsFault::Io { step: Step::Greeting, cause }),
        }
    }
}

fn judged(line: &[u8]) -> Result<(), StlsFault> {
    if is_status(line, b"+OK") {
        Ok(())
    } else if is_status(line, b"-ERR") {
        Err(StlsFault::Refused(quote(line)))
    } else {
        Err(StlsFault::NotPop3(quote(line)))
    }
}

/// Sends `STLS` and reads the reply; after `Ok` the next octet that the server sends has to be TLS.
pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> Result<(), StlsFault> {
    let sent = async {
        io.write_all(b"STLS\r\n").await?;
        io.flush().await
    };
    sent.await.map_err(|cause| StlsFault::Io { step: Step::Reply, cause })?;
    let line = read_line(io, Step::Reply).await?;
    if is_status(&line, b"+OK") { Ok(()) } else { Err(StlsFault::StlsRefused(quote(&line))) }
}

/// Whether the line begins with `status`, in any case, and a space, a tab or the line's end follows.
fn is_status(line: &[u8], status: &[u8]) -> bool {
    line.split_at_checked(status.len()).is_some_and(|(word, rest)| {
        word.eq_ignore_ascii_case(status) && matches!(rest, [b' ' | b'\t' | b'\n', ..] | [b'\r', b'\n'])
    })
}

/// How much of a server's line is quoted.
const QUOTED: usize = 200;

fn quote(line: &[u8]) -> String {
    escape_line(&line[..line.len().min(QUOTED)])
}

/// One line with its end. It never asks for more than fits, so that `line` holds at most [`LINE_LIMIT`] octets.
async fn read_line<S: AsyncRead + Unpin>(io: &mut S, step: Step) -> Result<Vec<u8>, StlsFault> {
    let mut line = Vec::with_capacity(512);
    loop {
        let room = LINE_LIMIT - line.len();
        if room == 0 {
            return Err(StlsFault::TooLong(step));
        }
        match (&mut *io).take(room as u64).read_buf(&mut line).await {
            Ok(0) => return Err(StlsFault::Closed(step)),
            Ok(_) => {}
            Err(cause) => return Err(StlsFault::Io { step, cause }),
        }
        if let Some(end) = memchr::memchr(b'\n', &line) {
            return if end + 1 == line.len() { Ok(line) } else { Err(StlsFault::Injected(step)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// What a server does next.
    enum Does<'a> {
        Says(&'a [u8]),
        HearsStls,
    }
    use Does::{HearsStls, Says};

    async fn serve(mut server: DuplexStream, script: &[Does<'_>]) -> Vec<u8> {
        let mut heard = Vec::new();
        for does in script {
            match does {
                Says(octets) => {
                    // A client that has given up is no fault of the server's.
                    let _ = server.write_all(octets).await;
                    tokio::task::yield_now().await;
                }
                HearsStls => {
                    let mut line = [0; 6];
                    if server.read_exact(&mut line).await.is_ok() {
                        heard.extend(line);
                    }
                }
            }
        }
        let _ = server.shutdown().await;
        let _ = server.read_to_end(&mut heard).await;
        heard
    }

    /// The dialogue against a script: what came of it, and every octet that the server received.
    async fn talk(script: &[Does<'_>]) -> (Result<Vec<u8>, StlsFault>, Vec<u8>) {
        let (mut ours, theirs) = duplex(64 * 1024);
        let client = async move {
            let held = greeting(&mut ours).await?;
            negotiate(&mut ours).await?;
            Ok(held)
        };
        tokio::join!(client, serve(theirs, script))
    }

    #[tokio::test]
    async fn a_clean_dialogue_in_every_split_holds_the_greeting_byte_for_byte() {
        let greeting = b"+OK ready \xff\0 <1@pop>\r\n".as_slice();
        for reply in [b"+OK begin\r\n".as_slice(), b"+ok\n", b"+OK\r\n", b"+OK\tnow\r\n"] {
            for g in 0..=greeting.len() {
                for r in 0..=reply.len() {
                    let script = [Says(&greeting[..g]), Says(&greeting[g..]), HearsStls, Says(&reply[..r]), Says(&reply[r..])];
                    let (result, heard) = talk(&script).await;
                    assert_eq!(result.unwrap(), greeting);
                    assert_eq!(heard, b"STLS\r\n");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_greeting_that_is_awaited_is_held_with_whatever_came_with_it() {
        let octets = b"+OK ready <1@pop>\r\n+OK and more".as_slice();
        for cut in 0..=octets.len() {
            let (mut ours, mut theirs) = duplex(64);
            let server = async move {
                theirs.write_all(&octets[..cut]).await.unwrap();
                tokio::task::yield_now().await;
                theirs.write_all(&octets[cut..]).await.unwrap();
            };
            let mut held = Vec::new();
            let (result, ()) = tokio::join!(await_greeting(&mut ours, &mut held), server);
            assert!(result.is_ok() && held.starts_with(b"+OK ready <1@pop>\r\n"), "{cut}: {result:?}");
            ours.read_to_end(&mut held).await.unwrap();
            assert_eq!(held, octets, "{cut}: nothing is lost");
        }
    }

    #[tokio::test]
    async fn octets_behind_the_reply_are_an_injection_wherever_they_are_cut() {
        let reply = b"+OK begin\r\n+OK yours\r\n".as_slice();
        // The cut right behind the first line is for the handshake to find: see the tests of `Connector`.
        for cut in (0..=reply.len()).filter(|&cut| cut != b"+OK begin\r\n".len()) {
            let (result, heard) = talk(&[Says(b"+OK\r\n"), HearsStls, Says(&reply[..cut]), Says(&reply[cut..])]).await;
            assert!(matches!(result, Err(StlsFault::Injected(Step::Reply))), "{cut}: {result:?}");
            assert_eq!(heard, b"STLS\r\n");
        }
    }

    #[tokio::test]
    async fn octets_behind_the_greeting_are_an_injection_and_stls_is_not_sent() {
        for surplus in [b"+OK begin\r\n".as_slice(), b"\0", b"\n"] {
            let octets = [b"+OK hello\r\n", surplus].concat();
            let (result, heard) = talk(&[Says(&octets)]).await;
            assert!(matches!(result, Err(StlsFault::Injected(Step::Greeting))));
            assert_eq!(heard, b"");
        }
    }

    #[tokio::test]
    async fn a_greeting_that_is_not_ok_ends_it_before_stls() {
        let cases: [(&[u8], &str); 6] = [
            (b"-ERR [SYS/TEMP] too \x1bmany\r\n", "it refused the session: `-ERR [SYS/TEMP] too \\x1bmany`"),
            (b"-err\n", "it refused the session: `-err`"),
            (b"220 smtp ready\r\n", "its greeting is not POP3: `220 smtp ready`"),
            (b"+OKAY\r\n", "its greeting is not POP3: `+OKAY`"),
            (b"+OK\rx\r\n", "its greeting is not POP3: `+OK\\x0dx`"),
            (b"\r\n", "its greeting is not POP3: ``"),
        ];
        for (line, words) in cases {
            let (result, heard) = talk(&[Says(line)]).await;
            assert_eq!(result.unwrap_err().to_string(), words);
            assert_eq!(heard, b"");
        }
    }

    #[tokio::test]
    async fn a_reply_that_is_not_a_clean_ok_ends_it() {
        for line in [b"-ERR no\r\n".as_slice(), b"\r\n", b"+OKAY\r\n", b"+ begin\r\n", b" +OK\r\n", b"+OK\0\r\n", b"+OK\r\r\n"] {
            let (result, heard) = talk(&[Says(b"+OK\r\n"), HearsStls, Says(line)]).await;
            assert!(matches!(result, Err(StlsFault::StlsRefused(_))), "{result:?}");
            assert_eq!(heard, b"STLS\r\n");
        }
    }

    #[tokio::test]
    async fn an_end_in_each_step_is_told() {
        for line in [b"".as_slice(), b"+OK", b"+OK hello\r"] {
            let (result, heard) = talk(&[Says(line)]).await;
            assert!(matches!(result, Err(StlsFault::Closed(Step::Greeting))));
            assert_eq!(heard, b"");
            let (result, heard) = talk(&[Says(b"+OK\r\n"), HearsStls, Says(line)]).await;
            assert!(matches!(result, Err(StlsFault::Closed(Step::Reply))));
            assert_eq!(heard, b"STLS\r\n");
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded() {
        let endless = [b"+OK ".as_slice(), &[b'x'; LINE_LIMIT]].concat();
        let (result, heard) = talk(&[Says(&endless)]).await;
        assert!(matches!(result, Err(StlsFault::TooLong(Step::Greeting))));
        assert_eq!(heard, b"");
        let mut longest = endless[..LINE_LIMIT - 2].to_vec();
        longest.extend(b"\r\n");
        let (result, _) = talk(&[Says(&longest), HearsStls, Says(b"+OK\r\n")]).await;
        assert_eq!(result.unwrap(), longest);
    }
}
