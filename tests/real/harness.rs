//! The harness itself: what it compares with is right, and it notices what is wrong.

use std::fs;

use crate::support::clients::{CLIENTS, Client};
use crate::support::dovecot::Dovecot;
use crate::support::relay::Relay;
use crate::support::transcript::{Transcript, forms_of};
use crate::support::{PASSWORD, mailbox, scratch, wire};

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
    for client in CLIENTS {
        let relay = Relay::start(dovecot.plain());
        let direct = client.fetch(dovecot.plain());
        assert_eq!(direct.len(), mailbox::messages().len(), "{client:?} left messages out");
        assert!(client.fetch(relay.address()) == direct, "{client:?} got other octets through a plain relay");
        // Other tests count on it: one session for each fetch.
        assert_eq!(relay.connections(), 1, "{client:?}");
    }
}

#[test]
fn clients_with_stls_get_the_same_octets_through_a_plain_relay() {
    let dovecot = Dovecot::start();
    for client in [Client::Curl, Client::Poplib, Client::Fetchmail] {
        let relay = Relay::start(dovecot.plain());
        let direct = client.fetch_with_stls(dovecot.plain(), dovecot.authority());
        assert_eq!(direct.len(), mailbox::messages().len(), "{client:?} left messages out");
        assert!(client.fetch_with_stls(relay.address(), dovecot.authority()) == direct, "{client:?} got other octets");
        assert_eq!(relay.connections(), 1, "{client:?}");
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

/// A transcript of one session with nothing in it but one more line, and what was printed meanwhile.
fn transcript_with(line: &str, log: &str) -> Transcript {
    let folder = scratch();
    let start = r#"{"v":1,"session":"a1","time":"2026-11-02T10:00:00.000000Z","at_us":0,"event":"#;
    let lines = [r#""opened"}"#, line, r#""closed"}"#].map(|rest| format!("{start}{rest}\n"));
    fs::write(folder.path().join("events-1.jsonl.zst"), zstd::encode_all(lines.concat().as_bytes(), 0).unwrap()).unwrap();
    fs::write(folder.path().join("sessions-1.jsonl"), format!("{start}\"session\"}}\n")).unwrap();
    Transcript::read(folder.path(), log.to_owned())
}

#[test]
fn a_harmless_transcript_is_read() {
    let transcript = transcript_with(r#""command","keyword":"STAT"}"#, "listening on 127.0.0.1:1110");
    assert_eq!(transcript.keywords(), ["STAT"]);
    assert_eq!(transcript.only_session()["event"], "session");
}

#[test]
#[should_panic(expected = "holds a secret")]
fn a_transcript_with_the_password_is_refused() {
    transcript_with(&format!(r#""command","text":"PASS {PASSWORD}"}}"#), "");
}

#[test]
#[should_panic(expected = "holds a secret")]
fn a_log_with_the_password_in_base64_is_refused() {
    transcript_with(r#""noop"}"#, &STANDARD.encode(format!("\0tim\0{PASSWORD}")));
}

#[test]
#[should_panic(expected = "the record has gaps")]
fn a_transcript_with_a_gap_is_refused() {
    transcript_with(r#""gap"}"#, "");
}

#[test]
#[should_panic(expected = "sessions opened, closed, and summed up")]
fn a_session_that_was_never_closed_is_refused() {
    transcript_with(r#""opened"}"#, "");
}
