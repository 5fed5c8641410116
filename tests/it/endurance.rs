//! The built `poptap` under loads that last: floods of commands, thousands of sessions, a reader that stands still.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::mpsc as channel,
    thread,
    time::{Duration, Instant},
};

use poptap::tls::{Authority, Validity, server_config};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    process::Poptap,
    sockets::{MODERATE, accept, connected, listening, small_client, small_listener},
};

/// Far more than any of these takes; it turns a standstill into a failure.
const DEADLINE: Duration = Duration::from_secs(120);
/// What poptap may have resident, in KiB.
const MEMORY: u64 = 32 * 1024;
const MIB: usize = 1024 * 1024;

// ── floods ──

const FLOOD: usize = 20_000;
/// A login, all the commands of the flood, and QUIT.
const COMMANDS: usize = FLOOD + 3;
/// The transcript is read as it was written, and the cap on outstanding commands is the default.
const DEFAULTS: &str = "[transcript]\ncompress = false\n";
/// No cap stands between the client and the server.
const UNCAPPED: &str = "[transcript]\ncompress = false\n[limits]\noutstanding = 100000\n";
/// A low cap, and no patience when it is reached.
const CAPPED: &str = "[transcript]\ncompress = false\n[limits]\noutstanding = 100\n[timeouts]\nreply = \"1s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_commands_over_plain() {
    assert_complete(&flood(&Load { settings: DEFAULTS, ..Load::default() }).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_commands_over_tls() {
    assert_complete(&flood(&Load { settings: DEFAULTS, tls: true, ..Load::default() }).await);
}

/// A relay that awaits a write to the client before it reads from the client again stands still for ever here: the replies
/// fill every buffer towards the client, who reads none before it has written 5 MB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_no_reply_before_it_has_written_all_over_plain() {
    assert_complete(&flood(&Load { settings: UNCAPPED, command: 250, reply: 700, tls: false }).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_no_reply_before_it_has_written_all_over_tls() {
    assert_complete(&flood(&Load { settings: UNCAPPED, command: 250, reply: 700, tls: true }).await);
}

/// The cap and such a client block each other. The mail goes on and the record ends, without a word against the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_cap_a_client_that_reads_no_reply_is_carried_on() {
    let summary = flood(&Load { settings: CAPPED, command: 250, reply: 700, tls: false }).await;
    assert_eq!(summary["opaque"], "replies-missing", "{summary:#}");
    assert_eq!(summary["verdict"], "opaque: too many commands awaited their replies, and nothing moved");
}

#[derive(Default)]
struct Load {
    settings: &'static str,
    tls: bool,
    /// Octets of a command and of a reply at least; blanks and dots fill them up.
    command: usize,
    reply: usize,
}

/// Every command is answered, in order; returns the session's summary.
async fn flood(load: &Load) -> Value {
    let (listener, server) = small_listener();
    let folder = tempfile::tempdir().unwrap();
    let poptap = if load.tls {
        let (options, acceptor) = tls(folder.path());
        let server_options: Vec<&str> = options.iter().map(String::as_str).collect();
        let poptap = Poptap::start(&format!("pop3s://{server}"), load.settings, &server_options);
        pour(load, poptap.address(), async { acceptor.accept(accept(&listener).await).await.unwrap() }).await;
        poptap
    } else {
        let poptap = Poptap::start(&format!("pop3://{server}"), load.settings, &[]);
        pour(load, poptap.address(), accept(&listener)).await;
        poptap
    };
    let mut summaries = poptap.stop();
    assert_eq!(summaries.len(), 1);
    summaries.remove(0)
}

fn assert_complete(summary: &Value) {
    assert_eq!((&summary["commands"], &summary["reason"]), (&COMMANDS.into(), &"quit".into()), "{summary:#}");
    assert!(summary.get("opaque").is_none() && summary.get("events_lost").is_none(), "{summary:#}");
}

/// The session itself: `server` is its connection at the far end.
async fn pour<S: AsyncRead + AsyncWrite>(load: &Load, address: SocketAddr, server: impl Future<Output = S>) {
    let both = async { tokio::join!(write_all_then_read(load, address), async { answer_all(load, server.await).await }) };
    timeout(DEADLINE, both).await.expect("client, proxy and server go on until the end");
}

async fn write_all_then_read(load: &Load, address: SocketAddr) {
    let mut client = small_client(address);
    let mut commands = b"USER x\r\nPASS y\r\n".to_vec();
    for _ in 0..FLOOD {
        commands.extend_from_slice(format!("{:width$}\r\n", "NOOP", width = load.command).as_bytes());
    }
    commands.extend_from_slice(b"QUIT\r\n");
    client.write_all(&commands).await.unwrap();
    let mut lines = BufReader::new(client).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK ready"));
    for number in 1..=COMMANDS {
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the end came before reply {number}"));
        assert_eq!(line.trim_end_matches('.'), format!("+OK {number} "));
    }
    assert_eq!(lines.next_line().await.unwrap(), None);
}

/// A server that reads whatever comes, whether or not its replies are taken; they are numbered.
async fn answer_all<S: AsyncRead + AsyncWrite>(load: &Load, server: S) {
    let (reader, mut writer) = tokio::io::split(server);
    let (asked, mut to_answer) = mpsc::unbounded_channel();
    let read = async move {
        let mut lines = BufReader::new(reader).lines();
        for number in 1..=COMMANDS {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("the end came before command {number}"));
            let expected = ["USER", "PASS", "QUIT", "NOOP"][[1, 2, COMMANDS].iter().position(|&at| at == number).unwrap_or(3)];
            assert_eq!(line.get(..4), Some(expected), "command {number}");
            asked.send(number).unwrap();
        }
    };
    let write = async move {
        writer.write_all(b"+OK ready\r\n").await.unwrap();
        while let Some(number) = to_answer.recv().await {
            let reply = format!("{:.<width$}\r\n", format!("+OK {number} "), width = load.reply);
            writer.write_all(reply.as_bytes()).await.unwrap();
            // Replies that are due together go out together.
            if to_answer.is_empty() {
                writer.flush().await.unwrap();
            }
        }
        writer.shutdown().await.unwrap();
    };
    tokio::join!(read, write);
}

/// A certificate for a server on loopback, and the options that make poptap trust it.
fn tls(folder: &Path) -> (Vec<String>, TlsAcceptor) {
    let issued = Authority::self_signed(&["localhost", "127.0.0.1"], Validity::days(1)).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, &issued.chain_pem).unwrap();
    (
        vec!["--upstream-ca".to_owned(), file.display().to_string()],
        TlsAcceptor::from(server_config(issued.chain, issued.key).unwrap()),
    )
}

// ── many sessions ──

/// Sessions, looked at after every so many of them.
const ROUNDS: usize = 5;
const ROUND: usize = 2_000;
/// Sessions at one time.
const AT_ONCE: usize = 8;
/// What resident memory may grow by after the first round, in KiB. What busy moments leave in the allocator takes up to half
/// of that; a leak shows from some 500 octets a session on, and a session that is not dropped holds several thousand.
const GROWTH: u64 = 4 * 1024;
/// Little waits for the disk, so that a slow one does not look like a leak.
const FRUGAL: &str = "[transcript]\ncompress = false\nbuffer = \"1 MiB\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sessions_leave_nothing_behind() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener));
    let poptap = Poptap::start(&format!("pop3://{server}"), FRUGAL, &[]);

    let idle = sockets(&poptap);
    run_sessions(poptap.address(), ROUND).await;
    wait_until(&poptap, |poptap| sockets(poptap) <= idle).await;
    let open = poptap.descriptors().len();
    let mut memory = vec![poptap.memory("VmRSS:")];
    for _ in 1..ROUNDS {
        run_sessions(poptap.address(), ROUND).await;
        wait_until(&poptap, |poptap| poptap.descriptors().len() <= open).await;
        memory.push(poptap.memory("VmRSS:"));
    }
    assert!(memory[ROUNDS - 1] <= memory[0] + GROWTH, "KiB after each round: {memory:?}");

    let summaries = poptap.stop();
    assert_eq!(summaries.iter().filter(|summary| summary["reason"] == "quit").count(), ROUNDS * ROUND);
    serving.abort();
}

/// Waits until poptap is at rest, as far as its descriptors tell.
async fn wait_until(poptap: &Poptap, rests: impl Fn(&Poptap) -> bool) {
    let waiting = async {
        while !rests(poptap) {
            tokio::task::yield_now().await;
        }
    };
    let rests = timeout(DEADLINE, waiting).await.is_ok();
    assert!(rests, "descriptors stay open: {:?}", poptap.descriptors());
}

fn sockets(poptap: &Poptap) -> usize {
    poptap.descriptors().iter().filter(|target| target.starts_with("socket:")).count()
}

async fn run_sessions(address: SocketAddr, count: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        clients.spawn(async move {
            for _ in 0..count / AT_ONCE {
                timeout(DEADLINE, session(address)).await.expect("a session ends in time");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

async fn session(address: SocketAddr) {
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut line = String::new();
    for command in ["USER x\r\n", "PASS y\r\n", "QUIT\r\n"] {
        stream.read_line(&mut line).await.unwrap();
        stream.write_all(command.as_bytes()).await.unwrap();
    }
    stream.read_to_string(&mut line).await.unwrap();
    assert_eq!(line, "+OK\r\n".repeat(4));
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            for _ in 0..3 {
                stream.write_all(b"+OK\r\n").await?;
                stream.read_line(&mut String::new()).await?;
            }
            stream.write_all(b"+OK\r\n").await
        });
    }
}

// ── a slow reader ──

/// The message: a block of lines so many times.
const BLOCK: &[u8; 64] = b"..is the beginning of a line that is as long as this one is, \x01\r\n";
const BLOCKS: usize = MIB;
/// A write that takes longer than this is taken to stand still. If it does not, the test only asks for less.
const STANDSTILL: Duration = Duration::from_millis(500);
/// What poptap and the system may hold of a message that nobody reads.
const HELD: usize = 16 * MIB;

/// 64 MiB for a client that first reads nothing, until the server can send no more, and then reads by the KiB.
#[test]
fn memory_is_bounded_while_a_message_waits_for_its_reader() {
    let (listener, server) = listening(MODERATE);
    let poptap = Poptap::start(&format!("pop3://{server}"), DEFAULTS, &[]);
    let (stands_still, stood_still) = channel::channel();
    let sending = thread::spawn(move || send_message(listener.accept().unwrap().0.into(), &stands_still));

    let mut client = std::net::TcpStream::from(connected(MODERATE, poptap.address()));
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"RETR 1\r\n").unwrap();
    let sent = stood_still.recv_timeout(DEADLINE).unwrap();
    assert!(sent < HELD, "{sent} octets were taken although nobody read");

    let start = Instant::now();
    let (mut piece, mut octets) = ([0; 1024], 0);
    loop {
        match client.read(&mut piece).unwrap() {
            0 => break,
            count => octets += count,
        }
        assert!(start.elapsed() < DEADLINE, "{octets} octets have come");
    }
    drop(client);
    sending.join().unwrap();
    assert_eq!(octets, b"+OK\r\n+OK\r\n.\r\n".len() + BLOCK.len() * BLOCKS);
    let peak = poptap.memory("VmHWM:");
    assert!(peak < MEMORY, "{peak} KiB were resident");
    let summary = &poptap.stop()[0];
    assert_eq!(summary["message_octets"], (BLOCK.len() - 1) * BLOCKS, "{summary:#}");
}

/// Says how many octets were taken when, for the first time, no more are.
fn send_message(mut stream: std::net::TcpStream, stands_still: &channel::Sender<usize>) {
    let mut lines = io::BufRead::lines(io::BufReader::new(stream.try_clone().unwrap()));
    stream.write_all(b"+OK\r\n").unwrap();
    lines.next().unwrap().unwrap();
    stream.write_all(b"+OK\r\n").unwrap();
    stream.set_write_timeout(Some(STANDSTILL)).unwrap();
    let (message, mut sent) = ([&BLOCK.repeat(BLOCKS), &b".\r\n"[..]].concat(), 0);
    while sent < message.len() {
        match stream.write(&message[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Only the first time is waited for.
                let _ = stands_still.send(sent);
            }
            Err(error) => panic!("cannot send the message: {error}"),
        }
    }
}
