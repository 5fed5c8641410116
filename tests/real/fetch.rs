//! Whole mailboxes, fetched by real clients through poptap over each kind of upstream hop.

use std::thread;

use crate::support::clients::{CLIENTS, Client};
use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::transcript::{assert_same, sha256};
use crate::support::{USER, mailbox, wire};

#[test]
fn clients_get_the_same_octets_over_a_plain_hop() {
    every_client_gets_the_same_octets(Mode::Plain);
}

#[test]
fn clients_get_the_same_octets_over_implicit_tls() {
    every_client_gets_the_same_octets(Mode::Implicit);
}

#[test]
fn clients_get_the_same_octets_over_stls() {
    every_client_gets_the_same_octets(Mode::Stls);
}

/// curl writes the message as it is, so here nothing but octets is compared: no other fetch, no client's own taste.
#[test]
fn curl_writes_the_octets_that_dovecot_sent() {
    let dovecot = Dovecot::start();
    let sent = wire::retrieve_all(dovecot.plain());
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        assert_same(&sent, &Client::Curl.fetch(proxy.address()), &format!("curl over {mode:?}"));
        proxy.stop();
    }
}

#[test]
fn sessions_side_by_side_do_not_mix() {
    let dovecot = Dovecot::start();
    let sent = wire::retrieve_all(dovecot.plain());
    let proxy = Proxy::start(&dovecot, Mode::Implicit);
    let address = proxy.address();
    let clients: Vec<_> = (0..16).map(|_| thread::spawn(move || wire::retrieve_all(address))).collect();
    for client in clients {
        assert_same(&sent, &client.join().unwrap(), "one of sixteen clients at once");
    }
    let transcript = proxy.stop();
    assert_eq!(transcript.sessions.len(), 16);
    let expected: Vec<_> = sent.iter().map(|message| sha256(message)).collect();
    for session in &transcript.sessions {
        assert_eq!(transcript.digests_of(session["session"].as_str().unwrap()), expected);
    }
}

fn every_client_gets_the_same_octets(mode: Mode) {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start(&dovecot, mode);
    for client in CLIENTS {
        let (direct, proxied) = (client.fetch(dovecot.plain()), client.fetch(proxy.address()));
        assert_eq!(direct.len(), mailbox::messages().len(), "{client:?} left messages out");
        assert_same(&direct, &proxied, &format!("{client:?} over {mode:?}"));
    }
    let transcript = proxy.stop();
    let expected: Vec<_> = wire::retrieve_all(dovecot.plain()).iter().map(|message| sha256(message)).collect();
    assert_eq!(transcript.sessions.len(), CLIENTS.len());
    for session in &transcript.sessions {
        assert_eq!(transcript.digests_of(session["session"].as_str().unwrap()), expected, "{session:#}");
        assert_eq!(session["user"], USER, "{session:#}");
        assert_eq!(session["logged_in"], true, "{session:#}");
        assert_eq!(session["messages"], expected.len(), "{session:#}");
        assert_eq!(session["upstream_tls"].is_string(), mode != Mode::Plain, "{session:#}");
        assert!(session.get("client_tls").is_none(), "{session:#}");
        assert!(session.get("opaque").is_none(), "{session:#}");
    }
}
