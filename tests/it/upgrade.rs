//! SIGUSR2: a new process takes the sockets, the old one lets its sessions finish, and nobody notices.
//!
//! A process that replaces another is no child of the test until the others have ended; then it is, since the test adopts orphans.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, test_kill_process, waitpid};
use tempfile::TempDir;

use crate::support::{
    mailbox::mailbox,
    outside::{Client, Left, PATIENCE, Poptap, Server, read_line},
};

/// Replaced so many times.
const TIMES: usize = 10;
/// Clients at one time.
const CLIENTS: usize = 4;
/// Sessions that have to pass between two replacements.
const BETWEEN: usize = 12;
const OVER: &str = " has taken over";

/// A poptap that is replaced, with all who came after it.
struct House {
    first: Option<Poptap>,
    /// The last of them accepts.
    pids: Vec<Pid>,
}

impl House {
    fn of(poptap: Poptap) -> Self {
        set_child_subreaper(Some(getpid())).unwrap();
        let pids = vec![poptap.pid()];
        Self { first: Some(poptap), pids }
    }

    fn poptap(&mut self) -> &mut Poptap {
        self.first.as_mut().unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.first.as_ref().unwrap().address
    }

    fn signal(&self, signal: Signal) {
        kill_process(*self.pids.last().unwrap(), signal).unwrap();
    }

    /// Has the last process replaced.
    fn upgrade(&mut self) {
        self.signal(Signal::USR2);
        let line = self.poptap().log_line(OVER);
        let number = line.split(OVER).next().unwrap().rsplit(' ').next().unwrap();
        self.pids.push(Pid::from_raw(number.parse().unwrap()).unwrap());
    }

    /// Has the last process replaced, which must not work; says what the log has to say of it.
    fn fail_to_upgrade(&mut self) -> String {
        self.signal(Signal::USR2);
        self.poptap().log_line("the upgrade failed, and this process goes on as before: ")
    }

    /// Stops the last process, and waits for all of them. Each must have ended well.
    fn stop(mut self) -> Left {
        self.signal(Signal::TERM);
        let left = self.first.take().unwrap().wait();
        assert!(left.status.success(), "the first ended with {}:\n{}", left.status, left.log);
        for (at, pid) in self.pids.drain(..).enumerate().skip(1) {
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0), "number {at} ended with {status:?}:\n{}", left.log);
        }
        left
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for pid in &self.pids[1.min(self.pids.len())..] {
            // It may have ended.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

/// Opened once, for whoever waits at it.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let (open, timeout) = self.1.wait_timeout_while(self.0.lock().unwrap(), 3 * PATIENCE, |open| !*open).unwrap();
        assert!(*open && !timeout.timed_out(), "the gate was never opened");
    }
}

/// A message of some size, told by its number.
fn message(number: &str) -> Vec<u8> {
    let line = format!("{number} {}\r\n", "-".repeat(60));
    [b"+OK\r\n", line.repeat(300).as_bytes(), b".\r\n"].concat()
}

/// Gives message 1 at once, and of every other one the half: the rest when the gate is open.
fn serve(mut stream: TcpStream, gate: &Gate) {
    let mut said = stream.write_all(b"+OK ready\r\n");
    while let (Ok(()), Some(line)) = (said, read_line(&mut stream)) {
        let line = String::from_utf8(line).unwrap();
        said = match line.trim_end().split_once(' ') {
            Some(("RETR", "1")) => stream.write_all(&message("1")),
            Some(("RETR", number)) => {
                let message = message(number);
                let (one, other) = message.split_at(message.len() / 2);
                stream.write_all(one).and_then(|()| {
                    gate.pass();
                    stream.write_all(other)
                })
            }
            _ => stream.write_all(b"+OK\r\n"),
        };
        if line.starts_with("QUIT") {
            return;
        }
    }
}

fn log_in(address: SocketAddr) -> Client {
    let mut client = Client::to(address);
    client.log_in();
    client
}

/// Asks for a message and hears it to its end, which is all that is to come.
fn hear(client: &mut Client, number: &str) {
    let heard: String = std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty() && line != ".\r\n")).collect();
    assert_eq!(format!("{heard}.\r\n").as_bytes(), message(number), "message {number}");
}

fn quit(mut client: Client) {
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

/// One session after the other until told to stop; each is counted.
fn come_and_go(address: SocketAddr, stop: &AtomicBool, counted: &Sender<()>) {
    while !stop.load(Ordering::SeqCst) {
        let mut client = log_in(address);
        client.say(b"RETR 1\r\n");
        hear(&mut client, "1");
        quit(client);
        // Nobody counts when the test has failed.
        let _ = counted.send(());
    }
}

fn wait_for(sessions: usize, counted: &Receiver<()>) {
    for _ in 0..sessions {
        counted.recv_timeout(PATIENCE).expect("sessions go on");
    }
}

#[test]
fn replaced_ten_times_under_load_nobody_is_refused_or_cut_and_every_session_is_on_record() {
    let gate = Arc::new(Gate::default());
    let server = {
        let gate = Arc::clone(&gate);
        Server::times(usize::MAX, move |stream| {
            serve(stream, &gate);
            Vec::new()
        })
    };
    let mut house = House::of(Poptap::start("[timeouts]\ndrain = '10m'\n", &["--upstream", &server.url("pop3")]));
    let (address, stop, (count, counted)) = (house.address(), Arc::new(AtomicBool::new(false)), channel());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, count) = (Arc::clone(&stop), count.clone());
            thread::spawn(move || come_and_go(address, &stop, &count))
        })
        .collect();
    drop(count);
    let mut long = Vec::new();
    for number in 0..TIMES {
        wait_for(BETWEEN, &counted);
        let number = (number + 2).to_string();
        let (mut reading, idle, unknown) = (log_in(address), log_in(address), Client::to(address));
        reading.say(format!("RETR {number}\r\n").as_bytes());
        assert_eq!(reading.line(), "+OK\r\n", "it is in the middle of it");
        long.push((number, reading, idle, unknown));
        house.upgrade();
    }
    wait_for(BETWEEN, &counted);
    gate.open();
    for (number, mut reading, mut idle, mut unknown) in long {
        hear_rest(&mut reading, &number);
        idle.say(b"RETR 1\r\n");
        hear(&mut idle, "1");
        unknown.log_in();
        for client in [reading, idle, unknown] {
            quit(client);
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    quit(log_in(address));
    let sessions = TIMES * BETWEEN + BETWEEN + counted.iter().count() + TIMES * 3 + 1;
    let left = house.stop();
    assert_eq!(left.sessions.len(), sessions, "{}", left.log);
    for session in &left.sessions {
        let verdict = session["verdict"].as_str().unwrap();
        assert!(verdict.starts_with("complete: "), "{session:#}");
    }
    let opened = left.events.iter().filter(|event| event["event"] == "opened").count();
    assert_eq!(opened, sessions);
}

/// The rest of a message whose first line was heard.
fn hear_rest(client: &mut Client, number: &str) {
    let heard: String = std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty() && line != ".\r\n")).collect();
    assert_eq!(format!("+OK\r\n{heard}.\r\n").as_bytes(), message(number), "message {number}");
}

#[test]
fn a_new_process_that_cannot_run_leaves_the_old_one_as_it_was_which_says_why() {
    let program = Program::copied();
    let server = Server::times(10, mailbox);
    let (upstream, settings) = (server.url("pop3"), "[limits]\ncommands = 100\n");
    let mut house = House::of(Poptap::start_program(&program.path, settings, &["--upstream", &upstream]));
    let mut before = log_in(house.address());
    house.poptap().reconfigure("[limits]\ncommandos = 3\n");
    let said = house.fail_to_upgrade();
    assert!(said.contains("the new process cannot run: ") && said.contains("poptap.toml:2"), "{said}");
    house.poptap().reconfigure("[log]\nfile = '/dev/null/poptap.log'\n");
    let said = house.fail_to_upgrade();
    assert!(said.contains("the log file's directory"), "{said}");
    house.poptap().reconfigure(settings);

    program.replace("#!/bin/sh\nexit 3\n");
    let said = house.fail_to_upgrade();
    assert!(said.contains("ended before it was ready, with exit status: 3; hint: "), "{said}");
    fs::remove_file(&program.path).unwrap();
    let said = house.fail_to_upgrade();
    assert!(said.contains(&format!("cannot start `{}`: ", program.path.display())), "{said}");
    quit(log_in(house.address()));

    program.restore();
    house.upgrade();
    assert_eq!(before.ask("NOOP"), "+OK\r\n");
    quit(before);
    quit(log_in(house.address()));
    assert_eq!(house.stop().sessions.len(), 3);
}

#[test]
fn who_is_told_to_stop_during_an_upgrade_stops_and_so_does_the_new_process() {
    let program = Program::copied();
    let server = Server::times(10, mailbox);
    let mut house = House::of(Poptap::start_program(&program.path, "", &["--upstream", &server.url("pop3")]));
    // It is never ready.
    program.replace("#!/bin/sh\nexec sleep 1000\n");
    house.signal(Signal::USR2);
    let line = house.poptap().log_line("upgrading: started process ");
    let pid = Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap()).unwrap();
    house.signal(Signal::USR2);
    house.poptap().log_line("SIGUSR2 is ignored: an upgrade is under way");
    quit(log_in(house.address()));
    let left = house.stop();
    assert!(left.log.contains("the upgrade is given up: this process was told to stop"), "{}", left.log);
    assert!(test_kill_process(pid).is_err(), "the new process has ended and was waited for");
}

#[test]
fn what_is_shielded_in_either_process_is_shielded_in_both() {
    let server = Server::times(10, mailbox);
    let folder = tempfile::tempdir().unwrap();
    let settings =
        format!("[shield]\ndir = '{}'\n[[rule]]\nname = 'kept'\naction = 'shield'\n", folder.path().join("memory").display());
    let mut house = House::of(Poptap::start(&settings, &["--upstream", &server.url("pop3")]));
    let (mut old, mut unknown) = (log_in(house.address()), Client::to(house.address()));
    house.upgrade();
    assert!(old.ask("DELE 1").starts_with("+OK"));
    quit(old);
    let mut new = log_in(house.address());
    assert_eq!(new.ask("STAT"), "+OK 1 30000000\r\n", "what was deleted in the old process is hidden in the new one");
    assert!(new.ask("DELE 1").starts_with("+OK"));
    quit(new);
    unknown.log_in();
    assert_eq!(unknown.ask("STAT"), "+OK 0 0\r\n", "and the other way round");
    quit(unknown);
    house.upgrade();
    let mut last = log_in(house.address());
    assert_eq!(last.ask("STAT"), "+OK 0 0\r\n");
    quit(last);
    house.stop();
    assert!(std::iter::from_fn(|| Some(server.heard())).take(4).all(|heard| !String::from_utf8(heard).unwrap().contains("DELE")));
}

#[test]
fn sockets_go_to_whoever_asks_for_them_new_ones_are_opened_and_the_rest_is_closed() {
    let server = Server::times(10, mailbox);
    let url = server.url("pop3");
    let settings = |listeners: &str| format!("upstream = [{{ url = '{url}' }}]\n[metrics]\nlisten = '127.0.0.1:0'\n{listeners}");
    let both = "[[listener]]\naddress = '127.0.0.1:0'\n[[listener]]\naddress = '127.0.0.2:0'\n";
    let mut house = House::of(Poptap::as_configured(&settings(both)));
    let kept = house.address();
    let removed = address_in(&house.poptap().said("listening on 127.0.0.2:"), "listening on ");
    let metrics = house.poptap().said("metrics are served at ");
    quit(log_in(removed));
    let mut there = log_in(removed);
    house.poptap().reconfigure(&settings("[[listener]]\naddress = '127.0.0.3:0'\n[[listener]]\naddress = '127.0.0.1:0'\n"));
    house.signal(Signal::USR2);
    let added = address_in(&house.poptap().log_line("listening on 127.0.0.3:"), "listening on ");
    assert_eq!(address_in(&house.poptap().log_line("listening on 127.0.0.1:"), "listening on "), kept);
    let same = house.poptap().log_line("metrics are served at ");
    assert_eq!(same.split("served at").nth(1), metrics.split("served at").nth(1));
    let line = house.poptap().said(OVER);
    let number = line.split(OVER).next().unwrap().rsplit(' ').next().unwrap();
    house.pids.push(Pid::from_raw(number.parse().unwrap()).unwrap());
    for address in [added, kept] {
        quit(log_in(address));
    }
    assert_eq!(there.ask("NOOP"), "+OK\r\n");
    quit(there);
    // The first process has ended when it is waited for, and with it the last copy of the socket.
    let left = house.stop();
    assert_eq!(left.sessions.len(), 4);
    assert!(TcpStream::connect(removed).is_err());
}

fn address_in(line: &str, before: &str) -> SocketAddr {
    line.split(before).nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// A copy of the program, in a place where it can be replaced.
struct Program {
    _folder: TempDir,
    path: PathBuf,
}

impl Program {
    fn copied() -> Self {
        let folder = TempDir::with_prefix("poptap-it-program-").unwrap();
        let program = Self { path: folder.path().join("poptap"), _folder: folder };
        program.restore();
        program
    }

    fn restore(&self) {
        self.put(|path| {
            let built = Path::new(env!("CARGO_BIN_EXE_poptap"));
            fs::hard_link(built, path).or_else(|_| fs::copy(built, path).map(drop)).unwrap();
        });
    }

    /// A script in its place.
    fn replace(&self, script: &str) {
        self.put(|path| {
            fs::write(path, script).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        });
    }

    /// As a package manager does: made beside it, and renamed.
    fn put(&self, make: impl FnOnce(&Path)) {
        let draft = self.path.with_extension("new");
        make(&draft);
        fs::rename(draft, &self.path).unwrap();
    }
}
