//! Floods in both directions, through TLS on both hops, over sockets that hold little.

use std::{future::Future, net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, split},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{
    outside::Left,
    secure::{AGREED, BOTH, Front, GREETING, Papers, Way},
    sockets::{accept, small_client, small_listener},
};

/// Far more than any of these takes; it turns a standstill into a failure.
const DEADLINE: Duration = Duration::from_secs(120);
/// Commands of a flood, QUIT included.
const COMMANDS: usize = 6000;
/// What poptap may ever have had resident, in KiB.
const MEMORY: u64 = 48 * 1024;
/// No cap stands between the client and the server.
const UNCAPPED: &str = "[limits]\noutstanding = 100000\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Reads while it writes.
    Eager,
    /// Reads nothing before it has written everything.
    Late,
}

/// Over TLS on the client's hop to TLS on the server's.
async fn flood(way: Way, settings: &str, reader: Reader) -> Left {
    let papers = Papers::new();
    let (listener, server) = small_listener();
    let acceptor = TlsAcceptor::from(papers.server.clone());
    let front = papers.front_of(&format!("pop3s://{server}"), settings);
    let serving = async { answer_all(acceptor.accept(accept(&listener).await).await.unwrap()).await };
    within(async { tokio::join!(ask_all(&front, way, reader), serving) }).await;
    let peak = front.poptap.peak_memory();
    assert!(peak < MEMORY, "{peak} KiB were resident");
    front.stop()
}

async fn within<T>(both: impl Future<Output = T>) -> T {
    timeout(DEADLINE, both).await.expect("client, proxy and server go on until the end")
}

async fn ask_all(front: &Front, way: Way, reader: Reader) {
    let (mut client, address): (_, SocketAddr) = (small_client(front.address(way)), front.address(way));
    if way == Way::Stls {
        read(&mut client, GREETING).await;
        client.write_all(b"STLS\r\n").await.unwrap();
        read(&mut client, AGREED).await;
    }
    let connector = TlsConnector::from(front.papers.trust.clone());
    let name = ServerName::IpAddress(address.ip().into());
    let mut client = connector.connect(name, client).await.unwrap();
    if way == Way::Implicit {
        read(&mut client, GREETING).await;
    }
    let (theirs, mut ours) = split(client);
    let written = Semaphore::new(usize::from(reader == Reader::Eager));
    let write = async {
        for n in 1..=COMMANDS {
            let command = if n == COMMANDS { "QUIT\r\n".to_owned() } else { format!("{:250}\r\n", format!("NOOP {n}")) };
            ours.write_all(command.as_bytes()).await.unwrap();
        }
        ours.flush().await.unwrap();
        written.add_permits(1);
    };
    let hear = async {
        let _written = written.acquire().await.unwrap();
        let mut lines = BufReader::new(theirs).lines();
        for n in 1..=COMMANDS {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the end came before reply {n}"));
            assert_eq!(line.trim_end_matches('.'), format!("+OK {n} "));
        }
        assert_eq!(lines.next_line().await.unwrap(), None, "and a goodbye");
    };
    tokio::join!(write, hear);
}

async fn read(stream: &mut (impl AsyncRead + Unpin), expected: &str) {
    let mut heard = vec![0; expected.len()];
    tokio::io::AsyncReadExt::read_exact(stream, &mut heard).await.unwrap();
    assert_eq!(heard, expected.as_bytes());
}

/// A server that reads whatever comes, whether or not its replies are taken; they are numbered as the commands are.
async fn answer_all(server: impl AsyncRead + AsyncWrite) {
    let (theirs, mut ours) = split(server);
    let (asked, mut to_answer) = mpsc::unbounded_channel();
    let hear = async move {
        let mut lines = BufReader::new(theirs).lines();
        for n in 1..=COMMANDS {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the end came before command {n}"));
            let expected = if n == COMMANDS { "QUIT".to_owned() } else { format!("NOOP {n}") };
            assert_eq!(line.trim_end(), expected);
            asked.send(n).unwrap();
        }
    };
    let answer = async move {
        ours.write_all(GREETING.as_bytes()).await.unwrap();
        ours.flush().await.unwrap();
        while let Some(n) = to_answer.recv().await {
            let reply = format!("{:.<700}\r\n", format!("+OK {n} "));
            ours.write_all(reply.as_bytes()).await.unwrap();
            if to_answer.is_empty() {
                ours.flush().await.unwrap();
            }
        }
        ours.shutdown().await.unwrap();
    };
    tokio::join!(hear, answer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_replies_flood_through_tls_on_both_hops_in_order() {
    for way in BOTH {
        let left = flood(way, "", Reader::Eager).await;
        assert_eq!((&left.session()["commands"], &left.session()["reason"]), (&commands(way).into(), &"quit".into()));
        assert!(left.session().get("opaque").is_none(), "{:#}", left.session());
    }
}

/// Every buffer towards the client fills, while it goes on writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_before_it_has_written_all_gets_every_reply() {
    for way in BOTH {
        let left = flood(way, UNCAPPED, Reader::Late).await;
        assert_eq!((&left.session()["commands"], &left.session()["reason"]), (&commands(way).into(), &"quit".into()));
    }
}

/// STLS is a command, too.
fn commands(way: Way) -> usize {
    COMMANDS + usize::from(way == Way::Stls)
}
