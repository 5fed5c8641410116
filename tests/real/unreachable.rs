//! Servers that cannot be reached as was asked: the client gets one line that says so, and its secrets stay where they are.

use std::net::{Ipv4Addr, TcpListener};

use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PASSWORD, USER, certificates, scratch};

/// Connect, send a whole login at once, and expect one `-ERR` line and the end; return what the record says of it.
fn assert_turned_away(proxy: Proxy, what: &str) {
    let mut wire = Wire::connect(proxy.address());
    assert!(wire.greeting().starts_with("-ERR [SYS/"), "{what}: {:?}", wire.greeting());
    // It may be closed already: whether that can still be written does not matter.
    let _ = wire.try_send(format!("USER {USER}\r\nPASS {PASSWORD}\r\n").as_bytes());
    drop(wire);
    let transcript = proxy.stop();
    let summary = transcript.only_session();
    assert_eq!(summary["logged_in"], false, "{what}: {summary:#}");
    assert!(!summary["verdict"].as_str().unwrap().is_empty(), "{what}: {summary:#}");
    assert_eq!(transcript.of_kind("command").filter(|event| event["forwarded"] == true).count(), 0, "{what}");
}

#[test]
fn a_certificate_by_an_unknown_authority_turns_clients_away() {
    let dovecot = Dovecot::start();
    let other = scratch();
    let unknown = certificates::make(other.path());
    for mode in [Mode::Implicit, Mode::Stls] {
        let proxy = Proxy::start_towards(&dovecot.url(mode), &unknown, &[]);
        assert_turned_away(proxy, &format!("an unknown authority over {mode:?}"));
    }
}

#[test]
fn a_server_that_refuses_stls_gets_no_login() {
    let dovecot = Dovecot::start_with(&["ssl = no"]);
    let direct = Wire::connect(dovecot.plain()).ask("STLS");
    assert!(direct.starts_with("-ERR"), "Dovecot agrees to STLS: {direct:?}");
    assert_turned_away(Proxy::start(&dovecot, Mode::Stls), "no STLS");
}

#[test]
fn tls_towards_a_plain_port_turns_clients_away() {
    let dovecot = Dovecot::start();
    let url = format!("pop3s://{}", dovecot.plain());
    assert_turned_away(Proxy::start_towards(&url, dovecot.authority(), &[]), "a plain port");
}

#[test]
fn a_port_where_nobody_listens_turns_clients_away() {
    let directory = scratch();
    let authority = certificates::make(directory.path());
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    assert_turned_away(Proxy::start_towards(&format!("pop3://{nobody}"), &authority, &[]), "a closed port");
}
