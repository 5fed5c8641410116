//! Both sides flood at once, over buffers that hold a fraction of it. The usual relay stands still here; ours does not.

use std::{sync::Arc, time::Duration};

use poptap::{
    relay::{HalfClose, relay},
    tls::{Authority, Validity},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split},
    join, select,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs},
};

use super::{GREETING, LIMITS, closed, pipe, tap};

const COMMANDS: usize = 20_000;
const COMMAND: &str = "RETR 1\r\n";
const BUFFER: usize = 16 * 1024;

/// A reply of two thousand octets: 40 MB in all.
fn reply() -> String {
    format!("+OK\r\n{}.\r\n", "twenty octets a line\r\n".repeat(91))
}

/// Pipelines all its commands without waiting for a reply, and reads meanwhile. Returns how many octets it read.
async fn client(stream: impl AsyncRead + AsyncWrite, commands: usize) -> usize {
    let (mut reading, mut writing) = split(stream);
    let write = async {
        let _ = writing.write_all(COMMAND.repeat(commands).as_bytes()).await;
        let _ = writing.shutdown().await;
    };
    let expected = reply().repeat(BUFFER / reply().len() + 2);
    let read = async {
        let mut greeting = vec![0; GREETING.len()];
        reading.read_exact(&mut greeting).await.unwrap();
        let (mut octets, mut buffer) = (0, vec![0; BUFFER]);
        loop {
            match reading.read(&mut buffer).await.unwrap() {
                0 => return octets,
                count => {
                    assert!(expected.as_bytes()[octets % reply().len()..].starts_with(&buffer[..count]), "at {octets}");
                    octets += count;
                }
            }
        }
    };
    join!(write, read).1
}

/// Answers one command after another, as servers do: it does not read while it writes.
async fn server(stream: impl AsyncRead + AsyncWrite, commands: usize) {
    let (reading, mut writing) = split(stream);
    let (mut reading, mut line, reply) = (BufReader::new(reading), String::new(), reply());
    writing.write_all(GREETING.as_bytes()).await.unwrap();
    for _ in 0..commands {
        line.clear();
        reading.read_line(&mut line).await.unwrap();
        assert_eq!(line, COMMAND);
        writing.write_all(reply.as_bytes()).await.unwrap();
        writing.flush().await.unwrap();
    }
    writing.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn floods_pass_in_plain_text() {
    let ((far_client, mut near_client), (far_server, mut near_server)) = (pipe(BUFFER), pipe(BUFFER));
    let mut tap = tap();
    let relaying = relay(&mut near_client, &mut near_server, &mut tap, &LIMITS, HalfClose::AtOnce);
    let (outcome, octets, ()) = join!(relaying, client(far_client, COMMANDS), server(far_server, COMMANDS));
    closed(&outcome);
    assert_eq!(octets, COMMANDS * reply().len());
    assert!(!tap.is_opaque());
}

#[tokio::test(start_paused = true)]
async fn floods_pass_through_tls() {
    let ((far_client, mut near_client), (far_server, near_server)) = (pipe(BUFFER), pipe(BUFFER));
    let (connector, acceptor) = tls();
    let name = "localhost".try_into().unwrap();
    let (near_server, far_server) = join!(connector.connect(name, near_server), acceptor.accept(far_server));
    let mut near_server = TlsStream::from(near_server.unwrap());
    let mut tap = tap();
    let relaying = relay(&mut near_client, &mut near_server, &mut tap, &LIMITS, HalfClose::AfterReplies);
    let (outcome, octets, ()) = join!(relaying, client(far_client, COMMANDS), server(far_server.unwrap(), COMMANDS));
    closed(&outcome);
    assert_eq!(octets, COMMANDS * reply().len());
}

#[tokio::test(start_paused = true)]
async fn floods_pass_through_tls_on_both_hops() {
    let ((far_client, near_client), (far_server, near_server)) = (pipe(BUFFER), pipe(BUFFER));
    let (connector, acceptor) = tls();
    let name = || "localhost".try_into().unwrap();
    let (near_server, far_server) = join!(connector.connect(name(), near_server), acceptor.accept(far_server));
    let (far_client, near_client) = join!(connector.connect(name(), far_client), acceptor.accept(near_client));
    let (mut near_client, mut near_server) = (TlsStream::from(near_client.unwrap()), TlsStream::from(near_server.unwrap()));
    let mut tap = tap();
    let relaying = relay(&mut near_client, &mut near_server, &mut tap, &LIMITS, HalfClose::AfterReplies);
    let (far_client, far_server) = (far_client.unwrap(), far_server.unwrap());
    let (outcome, octets, ()) = join!(relaying, client(far_client, COMMANDS), server(far_server, COMMANDS));
    closed(&outcome);
    assert_eq!(octets, COMMANDS * reply().len());
}

/// The relay that everybody writes first: it passes on little work, and stands still for ever on much. This shows that the
/// tests above can fail.
#[tokio::test(start_paused = true)]
async fn the_naive_loop_stands_still() {
    for (commands, finishes) in [(10, true), (COMMANDS, false)] {
        let ((far_client, mut near_client), (far_server, mut near_server)) = (pipe(BUFFER), pipe(BUFFER));
        let relaying = naive(&mut near_client, &mut near_server);
        let work = async { join!(relaying, client(far_client, commands), server(far_server, commands)) };
        assert_eq!(timeout(Duration::from_secs(3600), work).await.is_ok(), finishes, "{commands} commands");
    }
}

async fn naive<C, S>(client: &mut C, server: &mut S)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut from_server) = (vec![0; BUFFER], vec![0; BUFFER]);
    let (mut client_ended, mut server_ended) = (false, false);
    while !(client_ended && server_ended) {
        select! {
            count = client.read(&mut from_client), if !client_ended => match count.unwrap() {
                0 => { client_ended = true; server.shutdown().await.unwrap(); }
                count => server.write_all(&from_client[..count]).await.unwrap(),
            },
            count = server.read(&mut from_server), if !server_ended => match count.unwrap() {
                0 => { server_ended = true; client.shutdown().await.unwrap(); }
                count => client.write_all(&from_server[..count]).await.unwrap(),
            },
        }
    }
}

fn tls() -> (TlsConnector, TlsAcceptor) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let authority = Authority::new("flood").unwrap();
    let issued = authority.issue(&["localhost"], Validity::days(1)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(issued.chain, issued.key).unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)))
}
