//! The sample server's connections: lines in, replies out.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    time::timeout,
};

use super::{
    dialogue::{Dialogue, GREETING},
    mailbox::{Mailbox, without_end},
};

/// A line of the client's has at most this many octets, its end included; RFC 2449 §4 allows a client 255.
const LINE_LIMIT: usize = 8 * 1024;
/// Replies to pipelined commands are gathered up to about this many octets, and by at most one reply more.
const GATHERED: usize = 64 * 1024;
/// A silent client is left after this time, without a word (RFC 1939 §3).
const INACTIVITY: Duration = Duration::from_secs(600);
/// What a client still sends at the end is read and dropped for this long, up to [`LINGER_OCTETS`].
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: u64 = 64 * 1024;

/// Serves one client: user `demo`, password `demo`.
///
/// It returns when the client quits, or goes without QUIT, or sends a line of more than 8 KiB.
///
/// # Errors
/// When the stream fails, or for ten minutes nothing comes from the client or nothing can be sent to it
/// ([`io::ErrorKind::TimedOut`]).
pub async fn serve<S>(stream: S, mailbox: Arc<Mailbox>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::with_capacity(LINE_LIMIT, stream);
    let mut dialogue = Dialogue::new(mailbox);
    let (mut line, mut replies) = (Vec::new(), GREETING.to_vec());
    while !dialogue.is_over() {
        if replies.len() >= GATHERED || !stream.buffer().contains(&b'\n') {
            send(&mut stream, &mut replies).await?;
        }
        match read_line(&mut stream, &mut line).await? {
            Read::Line => replies.extend(dialogue.answer(without_end(&line))),
            Read::TooLong => {
                replies.extend(b"-ERR that line is too long, goodbye\r\n");
                break;
            }
            Read::End => break,
        }
    }
    send(&mut stream, &mut replies).await?;
    linger(stream).await
}

/// What there was to read.
enum Read {
    /// A line with its end.
    Line,
    /// More than a line may have, and no end of it.
    TooLong,
    /// The client's end of stream; the beginning of a line in front of it is no command.
    End,
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, line: &mut Vec<u8>) -> io::Result<Read> {
    line.clear();
    in_time(stream.take(LINE_LIMIT as u64).read_until(b'\n', line)).await?;
    Ok(match line.last() {
        Some(b'\n') => Read::Line,
        _ if line.len() == LINE_LIMIT => Read::TooLong,
        _ => Read::End,
    })
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, replies: &mut Vec<u8>) -> io::Result<()> {
    in_time(stream.write_all(replies)).await?;
    replies.clear();
    in_time(stream.flush()).await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(INACTIVITY, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client was inactive for ten minutes")))
}

/// Ends a connection so that the last reply arrives: closing it with input unread would reset it.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    in_time(stream.shutdown()).await?;
    // A client that resets the connection or stays on has had its reply: both are as good as an end.
    let _ = timeout(LINGER, tokio::io::copy(&mut stream.take(LINGER_OCTETS), &mut tokio::io::sink())).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    /// Far more than a session takes here; it turns a hang into a failure.
    const DEADLINE: Duration = Duration::from_secs(30);

    fn served(pipe: usize) -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, server) = tokio::io::duplex(pipe);
        (client, tokio::spawn(serve(server, Arc::new(Mailbox::sample()))))
    }

    /// Sends all of `input`, reading at the same time, and returns all that was answered.
    async fn exchange(client: DuplexStream, input: &[u8], piece: usize) -> Vec<u8> {
        let (mut reading, mut writing) = tokio::io::split(client);
        let mut output = Vec::new();
        let write = async {
            for piece in input.chunks(piece) {
                writing.write_all(piece).await.unwrap();
            }
        };
        let both = async { tokio::join!(write, reading.read_to_end(&mut output)) };
        let ((), read) = timeout(DEADLINE, both).await.expect("the server did not end the session");
        read.unwrap();
        output
    }

    const SESSION: &[u8] = b"CAPA\r\nUSER demo\r\nPASS demo\r\nSTAT\r\nRETR 3\r\nXYZZY\r\nTOP 1 0\r\nQUIT\r\n";

    /// What [`SESSION`] is to be answered with, said by the dialogue without any stream.
    fn expected() -> Vec<u8> {
        let mut dialogue = Dialogue::new(Arc::new(Mailbox::sample()));
        let replies = SESSION.split_inclusive(|&octet| octet == b'\n').flat_map(|line| dialogue.answer(without_end(line)));
        GREETING.iter().copied().chain(replies).collect()
    }

    #[tokio::test]
    async fn a_session_in_one_write_is_answered_in_order() {
        let (client, server) = served(1 << 20);
        assert_eq!(
            exchange(client, SESSION, SESSION.len()).await.escape_ascii().to_string(),
            expected().escape_ascii().to_string()
        );
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_same_octet_by_octet_and_with_bare_lf() {
        let bare: Vec<u8> = SESSION.iter().copied().filter(|&octet| octet != b'\r').collect();
        for (input, pipe) in [(SESSION, 1), (&bare[..], 1), (&bare[..], 1 << 20)] {
            let (client, server) = served(pipe);
            assert_eq!(exchange(client, input, 1).await, expected());
            server.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_pipelined_behind_quit_is_not_answered() {
        let (client, server) = served(1 << 16);
        assert!(
            exchange(client, b"QUIT\r\nCAPA\r\nSTAT\r\n", 64)
                .await
                .ends_with(b"+OK goodbye; the sample mailbox keeps all its messages\r\n")
        );
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_session() {
        let (client, server) = served(1 << 16);
        let reply = exchange(client, &[b'x'; LINE_LIMIT], 1000).await;
        assert_eq!(reply, [GREETING, b"-ERR that line is too long, goodbye\r\n"].concat());
        server.await.unwrap().unwrap();

        let (client, server) = served(1 << 16);
        let longest = [&vec![b'x'; LINE_LIMIT - 2][..], b"\r\nQUIT\r\n"].concat();
        let reply = exchange(client, &longest, 1000).await;
        assert_eq!(reply.split(|&octet| octet == b'\n').nth(1), Some(&b"-ERR unknown command\r"[..]));
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_may_go_without_a_word() {
        let (mut client, server) = served(1 << 16);
        client.write_all(b"USER demo\r\nPASS de").await.unwrap();
        client.shutdown().await.unwrap();
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        assert_eq!(output, [GREETING, b"+OK and the password?\r\n"].concat(), "a line without its end is no command");
        server.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_left_after_ten_minutes() {
        let (mut client, server) = served(1 << 16);
        let start = tokio::time::Instant::now();
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        assert_eq!((start.elapsed().as_secs(), output), (600, GREETING.to_vec()));
        assert_eq!(server.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
