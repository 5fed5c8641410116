//! The harness itself: what it compares with is right, and it notices what is wrong.

use crate::support::clients::CLIENTS;
use crate::support::dovecot::Dovecot;
use crate::support::relay::Relay;
use crate::support::transcript::forms_of;
use crate::support::{mailbox, wire};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

#[test]
fn dovecot_sends_the_mailbox_as_it_was_written() {
    let dovecot = Dovecot::start();
    let expected: Vec<_> = mailbox::messages().iter().map(|message| mailbox::as_sent(message)).collect();
    assert_eq!(wire::retrieve_all(dovecot.plain()), expected);
}

#[test]
fn every_client_fetches_all_messages_through_a_plain_relay() {
    let dovecot = Dovecot::start();
    let relay = Relay::start(dovecot.plain());
    for client in CLIENTS {
        let direct = client.fetch(dovecot.plain());
        assert_eq!(direct.len(), mailbox::messages().len(), "{client:?} left messages out");
        assert!(client.fetch(relay.address()) == direct, "{client:?} got other octets through a plain relay");
    }
}

#[test]
fn every_client_shows_changed_octets() {
    let dovecot = Dovecot::start();
    let spoilt = Relay::start_with(dovecot.plain(), |octets| {
        octets.iter().map(|octet| if *octet == b'y' { b'z' } else { *octet }).collect()
    });
    for client in CLIENTS {
        assert!(client.fetch(spoilt.address()) != client.fetch(dovecot.plain()), "{client:?} hides what was changed");
    }
}

#[test]
fn a_secret_is_found_in_base64_wherever_it_begins() {
    for before in ["", "a", "ab", "abc", "\0tim\0"] {
        for after in ["", "x", "xy"] {
            let text = STANDARD.encode(format!("{before}kettle-Quince{after}"));
            let found = forms_of(b"kettle-Quince").iter().any(|form| text.contains(std::str::from_utf8(form).unwrap()));
            assert!(found, "{text}");
        }
    }
}
