//! Listeners come and go at SIGHUP, files are reopened at SIGUSR1, and a process without descriptors recovers.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::outside::{Client, Poptap, SECRET, Server, converse};

/// A port that nobody listens on at this moment.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn configuration(server: &Server, listeners: &[SocketAddr]) -> String {
    let url = server.url("pop3");
    let listeners = listeners.iter().map(|address| format!("[[listener]]\naddress = '{address}'\n"));
    format!("[[upstream]]\nname = 'main'\nurl = '{url}'\n{}", listeners.collect::<String>())
}

fn reload(poptap: &mut Poptap, configuration: &str) {
    poptap.reconfigure(configuration);
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn greeted(address: SocketAddr) -> Client {
    let mut client = Client::to(address);
    assert_eq!(client.line(), "+OK ready\r\n");
    client
}

#[test]
fn an_added_listener_opens_and_a_removed_one_goes_while_its_sessions_stay() {
    let server = Server::times(10, converse);
    let (first, second) = (free_address(), free_address());
    let mut poptap = Poptap::as_configured(&configuration(&server, &[first]));
    let before = greeted(first);
    reload(&mut poptap, &configuration(&server, &[first, second]));
    assert!(poptap.said("listening on").contains(&first.to_string()));
    poptap.said(&format!("listening on {second}"));
    let between = greeted(second);
    reload(&mut poptap, &configuration(&server, &[second]));
    poptap.said(&format!("no longer listening on {first}; its sessions go on"));
    // The socket is closed by the task that accepted from it.
    while !is_refused(first) {
        thread::yield_now();
    }
    for mut client in [before, between, greeted(second)] {
        assert_eq!((client.ask("NOOP").as_str(), client.ask("QUIT").as_str()), ("+OK\r\n", "+OK\r\n"));
    }
    reload(&mut poptap, &configuration(&server, &[first, second]));
    assert_eq!(greeted(first).ask("QUIT"), "+OK\r\n", "it may come back");
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "shutdown"), 0, "{}", left.log);
}

/// A socket that was closed and bound anew would refuse somebody, or lose who waits in its queue.
#[test]
fn an_unchanged_listener_refuses_nobody_while_others_come_and_go() {
    let server = Server::times(2000, converse);
    let (stays, comes) = (free_address(), free_address());
    let mut poptap = Poptap::as_configured(&configuration(&server, &[stays]));
    let load = thread::spawn(move || (0..300).for_each(|_| assert_eq!(greeted(stays).ask("QUIT"), "+OK\r\n")));
    for round in 0..10 {
        let both = [stays, comes];
        reload(&mut poptap, &configuration(&server, &both[..2 - round % 2]));
    }
    load.join().unwrap();
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "quit"), 300);
}

#[test]
fn a_listener_that_cannot_be_bound_refuses_the_whole_reload() {
    let server = Server::times(10, converse);
    let (first, second) = (free_address(), free_address());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut poptap = Poptap::as_configured(&configuration(&server, &[first]));
    let wanted = configuration(&server, &[second, taken.local_addr().unwrap()]) + "deny_from = ['127.0.0.1']\n";
    poptap.reconfigure(&wanted);
    poptap.signal(Signal::HUP);
    let line = poptap.log_line("reload failed, and everything stays as it was: ");
    assert!(line.contains(&format!("cannot listen on {}", taken.local_addr().unwrap())), "{line}");
    assert!(is_refused(second), "what could be bound is given back");
    assert_eq!(greeted(first).ask("QUIT"), "+OK\r\n");
    drop(taken);
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
    assert_eq!(greeted(second).ask("QUIT"), "+OK\r\n");
    poptap.stop();
}

#[test]
fn a_log_file_that_was_moved_away_is_opened_anew_at_sigusr1() {
    let server = Server::times(4, converse);
    let folder = TempDir::with_prefix("poptap-it-").unwrap();
    let (log, old) = (folder.path().join("poptap.log"), folder.path().join("poptap.log.1"));
    let keys = folder.path().join("keys");
    let settings = format!("[log]\nfile = '{}'\nrotation = 'never'\n", log.display());
    let address = free_address();
    let store = folder.path().join("transcript");
    let arguments = ["--transcript", store.to_str().unwrap(), "--keylog", keys.to_str().unwrap()];
    let poptap = Poptap::logging_to(&log, folder, &(configuration(&server, &[address]) + &settings), &arguments, Stdio::null());
    assert_eq!(greeted(address).ask("QUIT"), "+OK\r\n");
    fs::rename(&log, &old).unwrap();
    fs::rename(&keys, keys.with_extension("1")).unwrap();
    poptap.signal(Signal::USR1);
    while !(log.exists() && keys.exists()) {
        thread::yield_now();
    }
    let both = || [&old, &log].map(|path| fs::read_to_string(path).unwrap());
    while !both().concat().contains("reopened the TLS secrets' file") {
        thread::yield_now();
    }
    assert_eq!(greeted(address).ask("QUIT"), "+OK\r\n");
    let left = poptap.stop();
    assert_eq!(left.sessions.len(), 2);
}

/// Enough for the process itself and some sessions; every session takes two.
const DESCRIPTORS: usize = 64;

#[test]
fn without_descriptors_clients_wait_the_log_says_so_once_and_then_it_goes_on() {
    let server = Server::times(500, converse);
    let address = free_address();
    let mut poptap = Poptap::with_descriptors(DESCRIPTORS, &configuration(&server, &[address]));
    let crowd: Vec<_> = (0..100).map(|_| Client::to(address)).collect();
    let line = poptap.log_line("cannot accept clients, who have to wait: ");
    assert!(line.contains("Too many open files") && line.contains("failures=1") && line.contains("hint: "), "{line}");
    // Those who came first have their sessions, those in the queue get theirs when these leave.
    for mut client in crowd {
        let greeting = client.line();
        assert!(greeting.starts_with("+OK ready") || greeting.starts_with("-ERR [SYS/TEMP]"), "{greeting}");
    }
    let mut client = greeted(address);
    assert!(client.ask("USER tim").starts_with("+OK") && client.ask(&format!("PASS {SECRET}")).starts_with("+OK"));
    assert_eq!(client.ask("QUIT"), "+OK\r\n");
    drop(client);
    let left = poptap.stop();
    assert_eq!(left.log.matches("cannot accept clients").count(), 1, "{}", left.log);
}
