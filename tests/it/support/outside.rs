//! poptap as a process, between a scripted server and a client on bare sockets.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The password of every login here: nothing that poptap leaves behind may hold it.
pub const SECRET: &str = "Wr9-kettle-Quince";

/// The one message of [`converse`]'s mailbox.
pub const MESSAGE: &[u8] = b"+OK 5\r\nSubject: x\r\n\r\nhello\r\n..\r\n.\r\n";

// ── the server ──

/// A server on loopback that plays a script to each of its first few clients.
pub struct Server {
    pub address: SocketAddr,
    heard: Receiver<Vec<u8>>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Plays `script` to one client. What the script returns is what it heard.
    pub fn once(script: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::times(1, script)
    }

    /// Plays `script` to `count` clients, each on a thread of its own.
    pub fn times(count: usize, script: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, heard) = channel();
        let (script, accepted) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&accepted);
        thread::spawn(move || {
            for _ in 0..count {
                let (sender, script, stream) = (sender.clone(), Arc::clone(&script), bounded(listener.accept().unwrap().0));
                counted.fetch_add(1, Ordering::SeqCst);
                // Nobody listens when the test has failed.
                thread::spawn(move || sender.send(script(stream)));
            }
        });
        Self { address, heard, accepted }
    }

    /// How many came.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Its URL, with a scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// What it heard in the session that ended next.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.recv_timeout(PATIENCE).expect("the server's session did not end")
    }
}

/// Greets, answers every line with `+OK`, RETR with [`MESSAGE`], and leaves after QUIT, or when nothing more comes.
pub fn converse(mut stream: impl Read + Write) -> Vec<u8> {
    let mut heard = Vec::new();
    if stream.write_all(b"+OK ready\r\n").is_err() {
        return heard;
    }
    while let Some(line) = read_line(&mut stream) {
        heard.extend_from_slice(&line);
        let reply = match line.get(..4) {
            _ if !line.ends_with(b"\n") => continue,
            Some(b"RETR") => MESSAGE,
            Some(b"CAPA") => b"+OK\r\nSTLS\r\nUSER\r\n.\r\n",
            _ => b"+OK\r\n",
        };
        if stream.write_all(reply).and_then(|()| stream.flush()).is_err() || line.starts_with(b"QUIT") {
            break;
        }
    }
    heard
}

/// Hears everything until the end, whatever kind of end that is.
pub fn listen(mut stream: impl Read) -> Vec<u8> {
    rest(&mut stream).0
}

/// One line, or what came before the end; `None` at the end.
pub fn read_line(stream: &mut impl Read) -> Option<Vec<u8>> {
    let (mut line, mut octet) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        match stream.read(&mut octet) {
            Ok(1) => line.push(octet[0]),
            _ => break,
        }
    }
    (!line.is_empty()).then_some(line)
}

/// All that comes until the end, and whether that was a reset.
pub fn rest(stream: &mut impl Read) -> (Vec<u8>, bool) {
    let (mut all, mut some) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut some) {
            Ok(0) => return (all, false),
            Ok(count) => all.extend_from_slice(&some[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("hangs behind {} octets", all.len()),
            Err(_) => return (all, true),
        }
    }
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Ends our half, and waits until the other side has ended too.
pub fn end(mut stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    rest(&mut stream);
}

/// The server's half of TLS over `stream`.
pub fn tls(stream: TcpStream, config: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

// ── the proxy ──

/// A running `poptap run`; killed when dropped, unless it has ended.
pub struct Poptap {
    pub address: SocketAddr,
    pub store: PathBuf,
    folder: TempDir,
    child: Child,
    lines: Receiver<String>,
    log: String,
}

/// What poptap left behind.
pub struct Left {
    pub status: ExitStatus,
    pub log: String,
    pub events: Vec<Value>,
    pub sessions: Vec<Value>,
}

impl Poptap {
    /// In front of `url`.
    pub fn to(url: &str) -> Self {
        Self::start("", &["--upstream", url])
    }

    /// With a configuration file of this text, and further arguments. It records below its own folder.
    pub fn start(configuration: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::with_prefix("poptap-it-").unwrap();
        let store = folder.path().join("transcript");
        let store_text = store.to_str().unwrap().to_owned();
        let arguments = [&["--transcript", store_text.as_str()], arguments].concat();
        Self::start_in(folder, configuration, &arguments, Stdio::null())
    }

    /// As [`Poptap::start`], but nothing is said of the transcript, and standard output goes where it is told to.
    pub fn start_in(folder: TempDir, configuration: &str, arguments: &[&str], stdout: Stdio) -> Self {
        let listen: &[&str] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        Self::launch(folder, configuration, &[arguments, listen].concat(), stdout)
    }

    /// With a configuration file that says everything, but for the transcript's place.
    pub fn as_configured(configuration: &str) -> Self {
        let folder = TempDir::with_prefix("poptap-it-").unwrap();
        let store = folder.path().join("transcript");
        let store = store.to_str().unwrap().to_owned();
        Self::launch(folder, configuration, &["--transcript", &store], Stdio::null())
    }

    /// As [`Poptap::start`], but it is this program.
    pub fn start_program(program: &Path, configuration: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::with_prefix("poptap-it-").unwrap();
        let store = folder.path().join("transcript").to_str().unwrap().to_owned();
        let arguments = [&["--transcript", store.as_str(), "--listen", "127.0.0.1:0"], arguments].concat();
        let command = run_in(command_of(program, folder.path()), &folder, &arguments, Stdio::null());
        Self::launch_by(folder, configuration, command)
    }

    /// The number of its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// As [`Poptap::as_configured`], and it may have so many descriptors.
    pub fn with_descriptors(count: usize, configuration: &str) -> Self {
        let folder = TempDir::with_prefix("poptap-it-").unwrap();
        let store = folder.path().join("transcript").to_str().unwrap().to_owned();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit -n {count}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_poptap")]);
        shell.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder.path());
        let command = run_in(shell, &folder, &["--transcript", &store], Stdio::null());
        Self::launch_by(folder, configuration, command)
    }

    /// As [`Poptap::start_in`], where its log goes to a file.
    pub fn logging_to(log: &Path, folder: TempDir, configuration: &str, arguments: &[&str], stdout: Stdio) -> Self {
        let command = run_in(command(folder.path()), &folder, arguments, stdout);
        let poptap = Self::spawn(folder, configuration, command);
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(log).is_ok_and(|text| text.contains("listening on ")) {
            assert!(Instant::now() < deadline, "poptap does not listen");
            thread::yield_now();
        }
        poptap
    }

    fn launch(folder: TempDir, configuration: &str, arguments: &[&str], stdout: Stdio) -> Self {
        let command = run_in(command(folder.path()), &folder, arguments, stdout);
        Self::launch_by(folder, configuration, command)
    }

    /// By a command that runs it with `poptap.toml` in `folder`, which is written here.
    pub fn launch_by(folder: TempDir, configuration: &str, command: Command) -> Self {
        let mut poptap = Self::spawn(folder, configuration, command);
        let line = poptap.log_line("listening on ");
        let (_, rest) = line.split_once("listening on ").unwrap();
        poptap.address = rest.split_whitespace().next().unwrap().parse().unwrap();
        poptap
    }

    fn spawn(folder: TempDir, configuration: &str, mut command: Command) -> Self {
        fs::write(folder.path().join("poptap.toml"), configuration).unwrap();
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let store = folder.path().join("transcript");
        Self { address, store, folder, child, lines, log: String::new() }
    }

    /// Waits for a line of the log.
    pub fn log_line(&mut self, wanted: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push_str(&line);
            self.log.push('\n');
            if line.contains(wanted) {
                return line;
            }
        }
        panic!("the log has no line with `{wanted}`:\n{}", self.log);
    }

    /// A line that it has written to standard error, or will.
    pub fn said(&mut self, wanted: &str) -> String {
        let known = self.log.lines().find(|line| line.contains(wanted)).map(str::to_owned);
        known.unwrap_or_else(|| self.log_line(wanted))
    }

    pub fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// All files in its folder with their names, as they are at this moment.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        files(self.folder.path())
    }

    /// Writes its configuration file anew; it reads that at the next SIGHUP.
    pub fn reconfigure(&self, configuration: &str) {
        fs::write(self.folder.path().join("poptap.toml"), configuration).unwrap();
    }

    /// What `/proc/PID/status` says behind `field`.
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{field} is not in\n{status}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Tells it to stop, waits for its end, which must be a success, and reads what it left.
    pub fn stop(self) -> Left {
        self.signal(Signal::TERM);
        let left = self.wait();
        assert!(left.status.success(), "poptap ended with {}:\n{}", left.status, left.log);
        left
    }

    /// The whole log, which ends with the process.
    pub fn rest_of_the_log(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        assert!(Instant::now() < deadline, "poptap did not end:\n{}", self.log);
        std::mem::take(&mut self.log)
    }

    /// Waits for its end and reads what it left, in which no secret may be.
    pub fn wait(mut self) -> Left {
        let log = self.rest_of_the_log();
        let status = self.child.wait().unwrap();
        let files = files(self.folder.path());
        for (name, octets) in files.iter().chain([&("log".to_owned(), log.clone().into_bytes())]) {
            assert_no_secret(name, octets);
        }
        let stream = |prefix: &str| {
            let files = files.iter().filter(|(name, _)| name.starts_with(prefix));
            files.flat_map(|(_, octets)| records(octets)).collect()
        };
        Left { status, log, events: stream("events-"), sessions: stream("sessions-") }
    }
}

impl Drop for Poptap {
    fn drop(&mut self) {
        // It may have ended, and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Left {
    /// The summary of the only session.
    pub fn session(&self) -> &Value {
        assert_eq!(self.sessions.len(), 1, "{:#?}\n{}", self.sessions, self.log);
        &self.sessions[0]
    }

    pub fn verdict(&self) -> &str {
        self.session()["verdict"].as_str().unwrap()
    }

    /// How many events have this value.
    pub fn count(&self, kind: &str, field: &str, value: &str) -> usize {
        self.events.iter().filter(|event| event["event"] == kind && event[field] == value).count()
    }

    pub fn has_event(&self, kind: &str, field: &str, value: &str) -> bool {
        self.events.iter().any(|event| event["event"] == kind && event[field] == value)
    }
}

/// The built program, alone with `folder` for its home.
pub fn command(folder: &Path) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_poptap")), folder)
}

/// Completes a command so that it runs poptap with the configuration of this folder.
fn run_in(mut command: Command, folder: &TempDir, arguments: &[&str], stdout: Stdio) -> Command {
    command.args(["run", "-vv", "--config"]).arg(folder.path().join("poptap.toml")).args(arguments);
    command.stdin(Stdio::null()).stdout(stdout);
    command
}

fn command_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder);
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (pid, (sender, receiver)) = (Pid::from_child(&child), channel());
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("{command:?} did not end");
    };
    output.unwrap()
}

/// All files below `folder` with their names, decompressed where they were compressed.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "zst") {
            found.push((name, zstd::decode_all(fs::read(&path).unwrap().as_slice()).unwrap()));
        } else {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found
}

fn records(octets: &[u8]) -> impl Iterator<Item = Value> + '_ {
    octets.split_inclusive(|&octet| octet == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn assert_no_secret(name: &str, octets: &[u8]) {
    for form in [SECRET.to_owned(), STANDARD.encode(SECRET)] {
        let form = form.trim_end_matches('=').as_bytes();
        assert!(!octets.windows(form.len()).any(|window| window == form), "{name} holds the password");
    }
}

// ── the client ──

/// A client on a bare socket.
pub struct Client(pub TcpStream);

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        Self(bounded(TcpStream::connect(address).unwrap()))
    }

    /// From 127.0.0.`host`.
    pub fn from(host: u8, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self(bounded(socket.into()))
    }

    /// The lines of a body, without the terminator.
    pub fn body(&mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| Some(self.line()).filter(|line| line != ".\r\n" && !line.is_empty()));
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    pub fn say(&mut self, octets: &[u8]) -> &mut Self {
        self.0.write_all(octets).unwrap();
        self
    }

    /// One line, its end included.
    pub fn line(&mut self) -> String {
        String::from_utf8(read_line(&mut self.0).unwrap_or_default()).unwrap()
    }

    /// Says a line and hears one.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(format!("{line}\r\n").as_bytes()).line()
    }

    /// Hears the greeting and logs in.
    pub fn log_in(&mut self) -> &mut Self {
        for reply in [self.line(), self.ask("USER tim"), self.ask(&format!("PASS {SECRET}"))] {
            assert!(reply.starts_with("+OK"), "{reply}");
        }
        self
    }

    /// All that still comes, up to an end that must not be a reset; then the client leaves.
    pub fn rest(mut self) -> String {
        let (octets, is_reset) = rest(&mut self.0);
        assert!(!is_reset, "the connection was reset behind {}", octets.escape_ascii());
        String::from_utf8(octets).unwrap()
    }

    /// All that still comes, however it ends; then the client leaves.
    pub fn last(mut self) -> Vec<u8> {
        rest(&mut self.0).0
    }

    pub fn reset(self) {
        reset(self.0);
    }
}
