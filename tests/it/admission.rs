//! Who is let in: by address, by number, and by what a reload says.

use std::time::Instant;

use rustix::process::Signal;

use crate::support::outside::{Client, PATIENCE, Poptap, Server, converse};

/// A client on 127.0.0.`host`.
fn from(host: u8, poptap: &Poptap) -> Client {
    Client::from(host, poptap.address)
}

/// One that was let in.
fn greeted(host: u8, poptap: &Poptap) -> Client {
    let mut client = from(host, poptap);
    assert_eq!(client.line(), "+OK ready\r\n");
    client
}

/// The only line of one that was not.
fn refused(host: u8, poptap: &Poptap) -> String {
    from(host, poptap).rest()
}

/// A place becomes free when its session is over, which a client cannot see.
fn greeted_at_last(host: u8, poptap: &Poptap) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = from(host, poptap);
        if client.line().starts_with("+OK") {
            return client;
        }
        assert!(Instant::now() < deadline, "the place of a session that is over stays taken");
    }
}

fn quit(mut client: Client) {
    client.say(b"QUIT\r\n");
    assert_eq!(client.rest(), "+OK\r\n");
}

const TOO_MANY: &str = "-ERR [SYS/TEMP] too many sessions from your address, try again later\r\n";

#[test]
fn an_address_has_so_many_sessions_and_another_one_its_own() {
    let server = Server::times(5, converse);
    let mut poptap =
        Poptap::start("[limits]\nsessions_per_client = 2\nexempt = ['127.0.0.4']\n", &["--upstream", &server.url("pop3")]);
    let (first, second) = (greeted(1, &poptap), greeted(1, &poptap));
    assert_eq!(refused(1, &poptap), TOO_MANY);
    let line = poptap.log_line("client refused");
    let told = format!(
        "WARN poptap::admission: client refused client=127.0.0.1 reason=too-many-from-client listener={}",
        poptap.address
    );
    assert!(line.ends_with(&told), "{line}");
    quit(greeted(2, &poptap));
    quit(first);
    quit(greeted_at_last(1, &poptap));
    quit(second);
    let left = poptap.stop();
    assert!(left.has_event("closed", "reason", "too-many-from-client"));
    let verdict = "client turned away: too many sessions from its address: no more than 2 at one time";
    assert!(left.sessions.iter().any(|session| session["verdict"] == verdict), "{:#?}", left.sessions);
}

#[test]
fn who_is_exempt_has_any_number() {
    let server = Server::times(3, converse);
    let settings = "[limits]\nsessions_per_client = 1\nexempt = ['127.0.0.4/31']\n";
    let poptap = Poptap::start(settings, &["--upstream", &server.url("pop3")]);
    let clients = [greeted(4, &poptap), greeted(4, &poptap), greeted(5, &poptap)];
    clients.into_iter().for_each(quit);
    poptap.stop();
}

#[test]
fn a_denied_network_is_refused_though_it_is_allowed_and_on_this_host() {
    let server = Server::times(1, converse);
    let settings = "[[listener]]\nallow_from = ['127.0.0.0/8']\ndeny_from = ['127.0.0.2', '127.0.0.8/29']\n";
    let mut poptap = Poptap::start(settings, &["--upstream", &server.url("pop3")]);
    for host in [2, 8, 15] {
        assert_eq!(refused(host, &poptap), "-ERR [SYS/PERM] your address is not allowed here\r\n");
        let line = poptap.log_line("client refused");
        assert!(line.contains(&format!("client=127.0.0.{host} reason=denied ")), "{line}");
    }
    quit(greeted(1, &poptap));
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "denied"), 3);
    assert_eq!(server.heard(), b"QUIT\r\n", "the server was not bothered");
}

#[test]
fn a_reload_brings_limits_for_new_sessions_and_leaves_the_old_ones() {
    let server = Server::times(3, converse);
    let mut poptap = Poptap::start("", &["--upstream", &server.url("pop3")]);
    let before = [greeted(1, &poptap), greeted(1, &poptap)];
    poptap.reconfigure("[limits]\nsessions_per_client = 2\nconnections = 7\n[[listener]]\ndeny_from = ['127.0.0.2']\n");
    poptap.signal(Signal::HUP);
    let note = poptap.log_line("limits.connections");
    assert!(note.contains("`limits.connections` stays 1000 until a restart, and is 7 then"), "{note}");
    poptap.log_line("reloaded: ");
    assert_eq!(refused(1, &poptap), TOO_MANY, "those who were there count");
    assert!(refused(2, &poptap).starts_with("-ERR [SYS/PERM]"));
    poptap.reconfigure("[limits]\nsessions_per_client = 3\n");
    poptap.signal(Signal::HUP);
    poptap.log_line("reloaded: ");
    let after = greeted(1, &poptap);
    assert_eq!(refused(1, &poptap), TOO_MANY);
    before.into_iter().chain([after]).for_each(quit);
    let left = poptap.stop();
    assert_eq!(left.count("closed", "reason", "quit"), 3, "no session was dropped");
}

#[test]
fn a_reload_with_a_fault_leaves_the_limits() {
    let server = Server::times(1, converse);
    let mut poptap = Poptap::start("[limits]\nsessions_per_client = 1\n", &["--upstream", &server.url("pop3")]);
    poptap.reconfigure("[limits]\nsessions_per_client = 5\nlogin_failures = 1000\n");
    poptap.signal(Signal::HUP);
    poptap.log_line("reload failed");
    let client = greeted(1, &poptap);
    assert_eq!(refused(1, &poptap), TOO_MANY);
    quit(client);
    poptap.stop();
}
