//! `sessions export`: what Wireshark and Python's `mailbox` make of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::clients::isolated;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::run;
use crate::support::proxy::{Proxy, poptap};
use crate::support::wire::{Wire, retrieve_all};
use crate::support::{PASSWORD, mailbox, scratch};

/// What the client asked in [`session`], in order, but for the STLS before it.
const ASKED: [&str; 9] = ["CAPA", "USER", "PASS", "LIST", "UIDL", "STAT", "TOP", "RETR", "QUIT"];

/// A session with a little of everything over such a hop; returns the messages as they were on the wire.
fn session(proxy: &Proxy, mode: Mode) -> Vec<Vec<u8>> {
    let mut wire = Wire::connect_over(mode, proxy.listener(mode), &proxy.authority());
    wire.ask_for_lines("CAPA");
    let mut wire = wire.logged_in();
    let count = wire.ask_for_lines("LIST").len();
    wire.ask_for_lines("UIDL");
    wire.ask("STAT");
    wire.ask_for_body("TOP 1 2");
    let messages = (1..=count).map(|number| wire.ask_for_body(&format!("RETR {number}"))).collect();
    wire.quit();
    messages
}

fn export(store: &Path, options: &[&str]) -> String {
    let home = scratch();
    let mut command = poptap(home.path());
    let output = run(command.args(["sessions", "export", "--last"]).args(options).arg("--transcript").arg(store));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    String::from_utf8(output.stderr).unwrap()
}

fn tshark(capture: &Path, listener: SocketAddr, options: &[&str]) -> Vec<String> {
    let home = scratch();
    let pop = format!("tcp.port=={},pop", listener.port());
    let mut command = isolated("tshark", home.path());
    let output = run(command.arg("-nr").arg(capture).args(["-d", &pop]).args(options));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

/// The values of a field, wherever it is.
fn field(capture: &Path, listener: SocketAddr, name: &str) -> Vec<String> {
    let values = tshark(capture, listener, &["-Y", name, "-T", "fields", "-E", "aggregator=\t", "-e", name]);
    values.iter().flat_map(|line| line.split('\t')).map(str::to_owned).collect()
}

/// How many messages Wireshark sees behind each RETR and TOP, up to the next command.
fn answered_with_a_message(capture: &Path, listener: SocketAddr) -> Vec<usize> {
    let fields = ["-T", "fields", "-e", "pop.request.command", "-e", "frame.protocols"];
    let frames = tshark(capture, listener, &[&["-Y", "imf || pop.request.command"][..], &fields].concat());
    let mut counts = Vec::new();
    let mut asked = false;
    for frame in frames {
        let (command, protocols) = frame.split_once('\t').unwrap();
        if protocols.contains("imf") {
            *counts.last_mut().filter(|_| asked).unwrap_or(&mut 0) += 1;
            continue;
        }
        asked = matches!(command, "RETR" | "TOP");
        counts.extend(asked.then_some(0));
    }
    counts
}

/// What both sides said, in hexadecimal, in the `number`th connection.
fn followed(capture: &Path, listener: SocketAddr, number: usize) -> String {
    let follow = format!("follow,tcp,raw,{number}");
    let lines = tshark(capture, listener, &["-q", "-z", &follow]);
    lines.iter().map(|line| line.trim()).filter(|line| line.bytes().all(|digit| digit.is_ascii_hexdigit())).collect()
}

fn hexadecimal(octets: &[u8]) -> String {
    let digits = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]);
    digits.map(|digit| char::from_digit(digit.into(), 16).unwrap()).collect()
}

#[test]
fn wireshark_shows_every_command_and_puts_every_message_together() {
    let dovecot = Dovecot::start();
    for (mode, content) in [(Mode::Plain, "full"), (Mode::Implicit, "none"), (Mode::Stls, "headers")] {
        let proxy = Proxy::start_with_every_listener(&dovecot, Mode::Implicit, &["--content", content]);
        let (listener, messages) = (proxy.listener(mode), session(&proxy, mode));
        let store = proxy.stop_and_keep();
        let what = format!("{mode:?}, {content}");
        let capture = store.path().join("session.pcapng");
        let said = export(&store.path().join("transcript"), &["--format", "pcapng", "--output", capture.to_str().unwrap()]);
        // Of LIST and UIDL only the beginning is recorded.
        assert!(said.lines().count() == 1 && said.contains("not kept: filler"), "{what}: {said}");
        assert_eq!(fs::metadata(&capture).unwrap().permissions().mode() & 0o777, 0o600);

        let mut asked: Vec<_> = if mode == Mode::Stls { vec!["STLS"] } else { Vec::new() };
        asked.extend(ASKED.iter().flat_map(|word| vec![*word; if *word == "RETR" { messages.len() } else { 1 }]));
        assert_eq!(field(&capture, listener, "pop.request.command"), asked, "{what}");
        // What was inside TLS stands in a connection of its own, on the same ports.
        let wrong = "_ws.malformed || tcp.checksum.status == 0 || (tcp.analysis.flags && !tcp.analysis.reused_ports)";
        assert_eq!(tshark(&capture, listener, &["-o", "tcp.check_checksum:TRUE", "-Y", wrong]), [""; 0], "{what}");
        assert_eq!(answered_with_a_message(&capture, listener), vec![1; messages.len() + 1], "{what}");

        let connection = usize::from(mode == Mode::Stls);
        let stream = followed(&capture, listener, connection);
        assert!(!stream.contains(&hexadecimal(PASSWORD.as_bytes())), "{what}");
        let all = messages.iter().all(|message| stream.contains(&hexadecimal(message)));
        assert_eq!(all, content == "full", "{what}");
        assert!(stream.len() > 2 * messages.iter().map(Vec::len).sum::<usize>(), "{what}");
        let streams: BTreeSet<_> = field(&capture, listener, "tcp.stream").into_iter().collect();
        assert_eq!(streams.len(), connection + 1, "{what}");
    }
}

#[test]
fn messages_are_those_that_the_server_sent() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start_with(&dovecot, Mode::Plain, &["--content", "full"]);
    let messages = retrieve_all(proxy.address());
    let store = proxy.stop_and_keep();
    let transcript = store.path().join("transcript");
    let (folder, file) = (store.path().join("messages"), store.path().join("session.mbox"));
    let said = export(&transcript, &["--format", "eml", "--output", folder.to_str().unwrap()]);
    assert_eq!(said, format!("{} messages written\n", messages.len()));
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.iter().map(|name| fs::read(name).unwrap()).collect::<Vec<_>>(), messages);

    export(&transcript, &["--format", "mbox", "--output", file.to_str().unwrap()]);
    // Python reads another variety of mailboxes: it takes no `>` off.
    let script = "import mailbox, sys\nfor message in mailbox.mbox(sys.argv[1]): print(message['Subject'])";
    let home = scratch();
    let read = run(isolated("python3", home.path()).args(["-c", script]).arg(&file)).stdout;
    assert_eq!(String::from_utf8_lossy(&read).lines().count(), mailbox::messages().len());
}
