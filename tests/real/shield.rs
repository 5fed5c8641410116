//! The shield between Dovecot and clients that delete what they fetch: they are content, and nothing is deleted.

use std::fs;

use tempfile::TempDir;

use crate::support::clients::Deleting;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::mailbox;
use crate::support::proxy::Proxy;
use crate::support::scratch;
use crate::support::transcript::assert_same;
use crate::support::wire::{Wire, retrieve_all};

#[test]
fn a_client_that_deletes_imports_each_message_once_and_the_mailbox_keeps_all() {
    for client in Deleting::CLIENTS {
        let dovecot = Dovecot::start();
        let mut expected = client.fetch(dovecot.plain());
        assert_eq!(expected.len(), mailbox::messages().len());
        let before = retrieve_all(dovecot.plain());
        let deleting = Deleting::new(client);
        let proxy = Proxy::start_from_file(home(&dovecot), 1, &[]);

        deleting.poll(proxy.address());
        assert_imported(&expected, &deleting, &format!("{client:?}, first poll"));
        deleting.poll(proxy.address());
        assert_imported(&expected, &deleting, &format!("{client:?}, second poll"));
        assert_same(&before, &retrieve_all(dovecot.plain()), &format!("{client:?}, the mailbox"));

        // The memory outlives the process.
        let proxy = Proxy::start_from_file(proxy.stop_and_keep(), 1, &[]);
        mailbox::deliver(&dovecot.maildir());
        expected.push(client.fetch(dovecot.plain()).pop().unwrap());
        for poll in ["third", "fourth"] {
            deleting.poll(proxy.address());
            assert_imported(&expected, &deleting, &format!("{client:?}, {poll} poll"));
        }
        let after = retrieve_all(dovecot.plain());
        assert_same(&before, &after[..before.len()], &format!("{client:?}, the mailbox"));
        assert_eq!(after.len(), before.len() + 1, "{client:?}");

        let transcript = proxy.stop();
        let deleted: Vec<_> = transcript.sessions.iter().map(|session| session["deleted"].as_u64().unwrap()).collect();
        assert_eq!(deleted, [before.len() as u64, 0, 1, 0], "{client:?} was told of success");
        let forwarded = transcript.of_kind("command").any(|event| event["keyword"] == "DELE" && event["forwarded"] != false);
        assert!(!forwarded, "{client:?}: a DELE reached the server");
    }
}

/// What the test above would see without a shield: the clients do delete.
#[test]
fn without_a_shield_the_same_clients_empty_the_mailbox() {
    for client in Deleting::CLIENTS {
        let dovecot = Dovecot::start();
        let expected = client.fetch(dovecot.plain());
        let deleting = Deleting::new(client);
        let proxy = Proxy::start(&dovecot, Mode::Plain);
        deleting.poll(proxy.address());
        assert_imported(&expected, &deleting, &format!("{client:?}"));
        assert!(retrieve_all(dovecot.plain()).is_empty(), "{client:?}");
        proxy.stop();
    }
}

#[test]
fn a_client_that_vanishes_before_quit_finds_its_messages_again() {
    let dovecot = Dovecot::start();
    let before = retrieve_all(dovecot.plain());
    let proxy = Proxy::start_from_file(home(&dovecot), 1, &[]);
    let listed = |wire: &mut Wire| wire.ask_for_lines("LIST").len();

    let mut vanishing = Wire::log_in(proxy.address());
    for number in 1..=before.len() {
        assert!(vanishing.ask(&format!("DELE {number}")).starts_with("+OK"), "message {number}");
    }
    assert_eq!(listed(&mut vanishing), 0);
    drop(vanishing);
    assert_same(&before, &retrieve_all(proxy.address()), "behind the shield");

    let mut polite = Wire::log_in(proxy.address());
    assert!(polite.ask("DELE 1").starts_with("+OK"));
    polite.quit();
    assert_same(&before[1..], &retrieve_all(proxy.address()), "behind the shield, after QUIT");
    assert_same(&before, &retrieve_all(dovecot.plain()), "the mailbox");
    proxy.stop();
}

/// Each of these was delivered once, in order, and nothing else. Whole octets are compared elsewhere: fetchmail puts one from
/// its own memory into lines of more than 8 KiB, which differs with how it is set up.
fn assert_imported(expected: &[Vec<u8>], deleting: &Deleting, what: &str) {
    let delivered = deleting.delivered();
    let beginnings = |messages: &[Vec<u8>]| -> Vec<(usize, String)> {
        let beginning = |message: &Vec<u8>| String::from_utf8_lossy(&message[..message.len().min(500)]).into_owned();
        messages.iter().map(|message| (message.len(), beginning(message))).collect()
    };
    assert_eq!(beginnings(expected), beginnings(&delivered), "{what}");
}

/// A home whose configuration shields everything, with the shield's memory in it.
fn home(dovecot: &Dovecot) -> TempDir {
    let home = scratch();
    let text = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n[[upstream]]\nurl = '{}'\n\
         [[rule]]\nname = 'keep'\naction = 'shield'\n[shield]\ndir = '{}'\n",
        dovecot.url(Mode::Plain),
        home.path().join("shield").display()
    );
    fs::write(home.path().join("poptap.toml"), text).unwrap();
    home
}
