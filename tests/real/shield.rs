//! The shield between Dovecot and clients that delete what they fetch: they are content, and nothing is deleted.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use tempfile::TempDir;

use crate::support::clients::{Deleting, isolated};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::run;
use crate::support::proxy::Proxy;
use crate::support::transcript::assert_same;
use crate::support::wire::{Wire, retrieve_all};
use crate::support::{PASSWORD, USER, mailbox, scratch};

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

#[test]
fn without_a_memory_every_poll_imports_all_again() {
    let dovecot = Dovecot::start();
    let kept = mailbox::read(&dovecot.maildir());
    let proxy = Proxy::start_from_file(home_towards(&dovecot.url(Mode::Plain), false), 1, &[]);
    for client in Deleting::CLIENTS {
        let deleting = Deleting::new(client);
        for poll in 1..=2 {
            deleting.poll(proxy.address());
            assert_eq!(deleting.delivered().len(), poll * kept.len(), "{client:?}");
        }
    }
    assert!(mailbox::read(&dovecot.maildir()) == kept, "a message was deleted");
    assert!(!proxy.home().join("shield").exists(), "something was remembered");
    proxy.stop();
}

#[test]
fn the_flag_shields_too_and_files_stay_as_they_are() {
    let dovecot = Dovecot::start();
    let kept = mailbox::read(&dovecot.maildir());
    let proxy = Proxy::start_with(&dovecot, Mode::Implicit, &["--shield"]);
    let mut command = isolated("curl", proxy.home());
    command.args(["--silent", "--show-error", "--user", &format!("{USER}:{PASSWORD}"), "--request", "DELE 1", "--head"]);
    run(command.arg(format!("pop3://{}/", proxy.address())));
    assert_eq!(retrieve_all(proxy.address()).len(), kept.len() - 1);
    proxy.stop();
    assert!(mailbox::read(&dovecot.maildir()) == kept, "a message was deleted");
}

/// Nothing tells its messages apart from one session to the next. Without a memory nothing has to.
#[test]
fn where_the_server_has_no_uidl_the_login_fails_and_says_why() {
    let url = format!("pop3://{}", server_without_uidl());
    let proxy = Proxy::start_from_file(home_towards(&url, true), 1, &[]);
    let mut wire = Wire::connect(proxy.address());
    assert!(wire.ask(&format!("USER {USER}")).starts_with("+OK"));
    let reply = wire.ask(&format!("PASS {PASSWORD}"));
    assert_eq!(reply, "-ERR [SYS/PERM] rules are in force that need the mailbox's UIDL, and the server has no UIDL\r\n");
    assert_eq!(wire.rest(), b"");
    proxy.stop();

    let proxy = Proxy::start_from_file(home_towards(&url, false), 1, &[]);
    Wire::log_in(proxy.address()).quit();
    proxy.stop();
}

/// One with one message. UIDL is optional (RFC 1939 §7). Its threads end with the test's process.
fn server_without_uidl() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || serve_without_uidl(client));
        }
    });
    address
}

fn serve_without_uidl(client: TcpStream) {
    let mut client = BufReader::new(client);
    client.get_mut().write_all(b"+OK ready\r\n").unwrap();
    let mut line = String::new();
    while client.read_line(&mut line).is_ok_and(|read| read > 0) {
        let reply = match line.trim_end() {
            "UIDL" => "-ERR unknown command\r\n",
            "LIST" => "+OK\r\n1 10\r\n.\r\n",
            _ => "+OK\r\n",
        };
        client.get_mut().write_all(reply.as_bytes()).unwrap();
        if line.starts_with("QUIT") {
            return;
        }
        line.clear();
    }
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
    home_towards(&dovecot.url(Mode::Plain), true)
}

fn home_towards(url: &str, remember: bool) -> TempDir {
    let home = scratch();
    let text = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n[[upstream]]\nurl = '{url}'\n\
         [[rule]]\nname = 'keep'\naction = 'shield'\n[shield]\nremember = {remember}\ndir = '{}'\n",
        home.path().join("shield").display()
    );
    fs::write(home.path().join("poptap.toml"), text).unwrap();
    home
}
