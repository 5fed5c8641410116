//! How fast does a large message pass? RETR over loopback: directly, through a bare relay, and through poptap.
//!
//! ```text
//! cargo bench --bench relay                            9 turns with a message of 64 MiB
//! cargo bench --bench relay -- --turns 15 --mib 128    another number, another size
//! ```
//!
//! Every turn fetches the message once over each way, in an order that rotates; ratios are taken within a turn, so that a
//! machine that is busy for a while slows all of them. The bare relay is this program again, as a process of its own.
#![allow(clippy::print_stdout, missing_docs, reason = "a bench prints its table")]

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

const MIB: usize = 1024 * 1024;
/// The argument that makes this program the bare relay.
const BARE_RELAY: &str = "bare-relay";
/// No fetch takes as long; one that hangs fails.
const DEADLINE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, upstream] = &arguments[..]
        && first == BARE_RELAY
    {
        return bare_relay(upstream.parse()?);
    }
    // Without cargo's `--bench` this is `cargo test --all-targets`: once, small, to see that it works.
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let turns = number(&arguments, "--turns")?.unwrap_or(if measured { 9 } else { 1 });
    let mib = number(&arguments, "--mib")?.unwrap_or(if measured { 64 } else { 1 });

    let folder = tempfile::tempdir()?;
    let server = serve(Message::new(mib))?;
    let mut ways = Way::all(server, folder.path())?;
    let message = Message::new(mib);
    for way in &ways {
        way.fetch(&message, true).with_context(|| format!("{} altered the message", way.name))?;
    }
    for turn in 0..turns {
        for place in 0..ways.len() {
            let way = (turn + place) % ways.len();
            let run = ways[way].fetch(&message, false)?;
            ways[way].runs.push(run);
        }
    }
    report(&ways, mib, turns);
    largest_message(4 * mib, folder.path())
}

fn number(arguments: &[String], name: &str) -> Result<Option<usize>> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(None) };
    let value = arguments.get(at + 1).with_context(|| format!("{name} takes a number"))?;
    Ok(Some(value.parse().with_context(|| format!("{name} takes a number, not `{value}`"))?))
}

// ── the message, its sender and its receiver ──

/// A message as it is on the wire: one block of whole lines, over and over, then the terminator.
struct Message {
    block: Vec<u8>,
    times: usize,
}

const TERMINATOR: &[u8] = b".\r\n";

impl Message {
    /// At least `mib` MiB, in lines of 60 to 80 octets; every fiftieth begins with a dot, which is doubled on the wire.
    fn new(mib: usize) -> Self {
        let mut block = Vec::with_capacity(MIB + 100);
        for number in 0_usize.. {
            if block.len() >= MIB {
                break;
            }
            let start = if number.is_multiple_of(50) { ".." } else { "" };
            let filling = "The quick brown fox jumps over the lazy dog, and so on and on and on.";
            let line = format!("{start}{number:06} {}\r\n", &filling[..52 + number % 17]);
            block.extend_from_slice(line.as_bytes());
        }
        Self { block, times: mib }
    }

    fn octets(&self) -> usize {
        self.block.len() * self.times + TERMINATOR.len()
    }

    fn send(&self, stream: &mut TcpStream) -> io::Result<()> {
        for _ in 0..self.times {
            stream.write_all(&self.block)?;
        }
        stream.write_all(TERMINATOR)
    }

    /// Reads the message; where it is to be `checked`, every octet of it.
    fn receive(&self, stream: &mut TcpStream, checked: bool) -> Result<()> {
        let mut buffer = vec![0; MIB / 4];
        let mut at = 0;
        while at < self.octets() {
            let room = buffer.len().min(self.octets() - at);
            let count = stream.read(&mut buffer[..room])?;
            ensure!(count > 0, "the connection ended {at} octets into the message");
            ensure!(!checked || self.is_at(at, &buffer[..count]), "other octets, {at} octets into the message");
            at += count;
        }
        Ok(())
    }

    /// Whether `octets` are what stands `at` octets into the message.
    fn is_at(&self, at: usize, octets: &[u8]) -> bool {
        let body = self.block.len() * self.times;
        let expected = (at..).map(|at| if at < body { self.block[at % self.block.len()] } else { TERMINATOR[at - body] });
        octets.iter().zip(expected).all(|(&octet, expected)| octet == expected)
    }
}

/// A server with one message, which goes on until the process ends.
fn serve(message: Message) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A session that breaks off is seen at its other end.
            let _ = converse(stream, &message);
        }
    });
    Ok(address)
}

fn converse(mut stream: TcpStream, message: &Message) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"+OK ready\r\n")?;
    for line in lines {
        stream.write_all(b"+OK\r\n")?;
        match &*line? {
            "RETR 1" => message.send(&mut stream)?,
            "QUIT" => break,
            _ => {}
        }
    }
    Ok(())
}

/// One session: what the message took, from RETR to its last octet.
fn fetch(address: SocketAddr, message: &Message, checked: bool) -> Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    answer(&mut stream)?;
    for command in ["USER bench\r\n", "PASS bench\r\n"] {
        stream.write_all(command.as_bytes())?;
        answer(&mut stream)?;
    }
    let start = Instant::now();
    stream.write_all(b"RETR 1\r\n")?;
    answer(&mut stream)?;
    message.receive(&mut stream, checked)?;
    let elapsed = start.elapsed();
    stream.write_all(b"QUIT\r\n")?;
    answer(&mut stream)?;
    Ok(elapsed)
}

/// Reads a status line, and nothing behind it.
fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).context("no answer")?;
        line.extend(octet);
    }
    ensure!(line.starts_with(b"+OK"), "the answer was {}", line.escape_ascii());
    Ok(())
}

// ── the ways that the message takes ──

struct Way {
    name: &'static str,
    address: SocketAddr,
    process: Option<Process>,
    runs: Vec<Run>,
}

/// One fetch: how long it took, and how long the process in the middle was on a processor.
struct Run {
    elapsed: Duration,
    busy: Duration,
}

impl Way {
    fn all(server: SocketAddr, folder: &Path) -> Result<Vec<Self>> {
        let transcript = |name: &str| format!("--transcript={}", folder.join(name).display());
        let config = folder.join("poptap.toml");
        fs::write(&config, "[transcript]\nhash = \"none\"\n")?;
        let config = format!("--config={}", config.display());
        let direct = Self { name: "direct", address: server, process: None, runs: Vec::new() };
        Ok(vec![
            direct,
            Self::through("copy_bidirectional", Process::bare_relay(server)?),
            Self::through("poptap", Process::poptap(server, &[&transcript("sha256")])?),
            Self::through("poptap, hash = \"none\"", Process::poptap(server, &[&transcript("none"), &config])?),
            Self::through("poptap --no-transcript", Process::poptap(server, &["--no-transcript"])?),
        ])
    }

    fn through(name: &'static str, process: Process) -> Self {
        Self { name, address: process.address, process: Some(process), runs: Vec::new() }
    }

    fn fetch(&self, message: &Message, checked: bool) -> Result<Run> {
        let busy = || self.process.as_ref().map_or(Ok(Duration::ZERO), Process::busy);
        let before = busy()?;
        let elapsed = fetch(self.address, message, checked)?;
        Ok(Run { elapsed, busy: busy()?.saturating_sub(before) })
    }
}

/// A process in the middle; it is killed when it is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn bare_relay(server: SocketAddr) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([BARE_RELAY, &server.to_string()]);
        Self::start(command)
    }

    fn poptap(server: SocketAddr, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poptap"));
        for name in ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.args(["run", "--listen=127.0.0.1:0", "--upstream", &format!("pop3://{server}")]).args(options);
        Self::start(command)
    }

    /// Starts it, and waits until it says on stderr where it is listening.
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut process = Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        process.address = listening_on(stderr)?;
        Ok(process)
    }

    /// Time that its threads spent on a processor.
    fn busy(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let statistics = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += statistics.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The most memory that was ever resident, in KiB.
    fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that ended by itself is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds the address in a log, and has the rest of it read and thrown away.
fn listening_on(stderr: ChildStderr) -> Result<SocketAddr> {
    let mut lines = BufReader::new(stderr).lines();
    let mut log = String::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some((_, address)) = line.split_once("listening on ") {
            let address = address.split_whitespace().next().unwrap_or_default().parse()?;
            thread::spawn(move || lines.for_each(drop));
            return Ok(address);
        }
        log.push_str(&line);
    }
    bail!("a process did not start: {log}")
}

/// The relay to compare with: two buffers of 8 KiB for each connection. It ends with whoever started it.
fn bare_relay(upstream: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let parent = thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(io::stderr(), "listening on {}", listener.local_addr()?)?;
        loop {
            let (mut client, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(upstream).await?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
        #[allow(unreachable_code, reason = "names the type of the errors above")]
        io::Result::Ok(())
    });
    // Its end of file is the parent's end.
    let _ = parent.join();
    runtime.shutdown_background();
    Ok(())
}

// ── the numbers ──

fn report(ways: &[Way], mib: usize, turns: usize) {
    let processors = thread::available_parallelism().map_or(0, usize::from);
    println!("\nRETR of {mib} MiB over loopback, {turns} turns, {processors} processors; medians, in brackets the quartiles");
    println!("{:24} {:>22} {:>22} {:>16} {:>10}", "", "MiB/s", "of copy_bidirectional", "processor time", "VmHWM");
    let relay = &ways[1].runs;
    for way in ways {
        let rates = Spread::of(way.runs.iter().map(|run| per_second(mib, run.elapsed)));
        let ratios = way.runs.iter().zip(relay).map(|(run, relay)| relay.elapsed.as_secs_f64() / run.elapsed.as_secs_f64());
        let busy = Spread::of(way.runs.iter().map(|run| run.busy.as_secs_f64() * 1e3));
        let peak = way.process.as_ref().and_then(|process| process.peak().ok()).unwrap_or_default();
        println!(
            "{:24} {:>22} {:>22} {:>13.0} ms {:>6.1} MiB",
            way.name,
            rates.show(0),
            Spread::of(ratios).show(2),
            busy.median,
            as_mib(peak)
        );
    }
}

/// A message of another size through a new poptap: does its memory grow with the message?
fn largest_message(mib: usize, folder: &Path) -> Result<()> {
    let server = serve(Message::new(mib))?;
    let transcript = format!("--transcript={}", folder.join("largest").display());
    let way = Way::through("poptap", Process::poptap(server, &[&transcript])?);
    let run = way.fetch(&Message::new(mib), false)?;
    let peak = way.process.as_ref().context("no process")?.peak()?;
    println!("one message of {mib} MiB through poptap: {:.0} MiB/s, VmHWM {:.1} MiB", per_second(mib, run.elapsed), as_mib(peak));
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "sizes in MiB are small")]
fn per_second(mib: usize, elapsed: Duration) -> f64 {
    mib as f64 / elapsed.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "sizes in KiB are small")]
fn as_mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get((values.len().saturating_sub(1)) * quarter / 4).copied().unwrap_or(f64::NAN);
        Self { low: at(1), median: at(2), high: at(3) }
    }

    fn show(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    }
}
