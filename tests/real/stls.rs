//! STLS that a client sends to a plain listener.

use crate::support::clients::{Client, fetchmail_by_default, isolated};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::process::{describe, run_unchecked};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PASSWORD, USER, scratch};

#[test]
fn stls_passes_end_to_end_and_the_record_says_that_it_ends_there() {
    let dovecot = Dovecot::start();
    for client in [Client::Curl, Client::Poplib, Client::Fetchmail] {
        let direct = client.fetch_with_stls(dovecot.plain(), dovecot.authority());
        let proxy = Proxy::start(&dovecot, Mode::Plain);
        assert!(client.fetch_with_stls(proxy.address(), dovecot.authority()) == direct, "{client:?} got other octets");
        let transcript = proxy.stop();
        let reasons: Vec<_> = transcript.of_kind("opaque").map(|event| &event["reason"]).collect();
        assert_eq!(reasons, ["starttls"], "{client:?}");
        assert_eq!(transcript.keywords().last(), Some(&"STLS"), "{client:?}");
        assert_eq!(transcript.only_session()["opaque"], "starttls", "{client:?}");
        assert!(transcript.only_session().get("user").is_none(), "{client:?}");
    }
}

#[test]
fn stls_is_refused_on_the_spot_where_it_cannot_pass() {
    let dovecot = Dovecot::start();
    for (mode, options) in [(Mode::Plain, &["--stls", "refuse"][..]), (Mode::Implicit, &[]), (Mode::Stls, &[])] {
        let proxy = Proxy::start_with(&dovecot, mode, options);
        let mut wire = Wire::connect(proxy.address());
        // Pipelined with others, to see that poptap's own reply takes its place among the server's.
        wire.send(format!("USER {USER}\r\nSTLS\r\nPASS {PASSWORD}\r\nQUIT\r\n").as_bytes());
        let replies = String::from_utf8(wire.rest()).unwrap();
        let statuses: Vec<_> = replies.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(statuses, ["+OK", "-ERR", "+OK", "+OK"], "over {mode:?}: {replies}");
        let transcript = proxy.stop();
        let local: Vec<_> = transcript.of_kind("reply").filter(|event| event["local"] == true).collect();
        assert_eq!(local.len(), 1, "over {mode:?}");
        assert_eq!((&local[0]["keyword"], &local[0]["n"]), (&"STLS".into(), &2.into()), "over {mode:?}");
        let forwarded: Vec<_> = transcript.of_kind("command").map(|event| event["forwarded"] == true).collect();
        assert_eq!(forwarded, [true, false, true, true], "over {mode:?}");
    }
}

/// What README says of fetchmail without `sslproto ""`: it insists on STLS, and gives up before it has said who it is.
#[test]
fn fetchmail_gives_up_by_default_where_stls_is_refused() {
    let dovecot = Dovecot::start();
    for (mode, options) in [(Mode::Plain, &["--stls", "refuse"][..]), (Mode::Implicit, &[]), (Mode::Stls, &[])] {
        let proxy = Proxy::start_with(&dovecot, mode, options);
        let output = fetchmail_by_default(proxy.address());
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(2), "over {mode:?}: {said}");
        assert!(said.contains("upgrade to TLS failed"), "over {mode:?}: {said}");
        let transcript = proxy.stop();
        assert!(transcript.keywords().contains(&"STLS"), "over {mode:?}");
        assert!(!transcript.keywords().iter().any(|keyword| ["USER", "PASS", "AUTH"].contains(keyword)), "over {mode:?}");
    }
}

/// A client that insists on TLS must learn that there is none, and must not log in.
#[test]
fn curl_gives_up_where_it_requires_the_stls_that_is_refused() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start_with(&dovecot, Mode::Plain, &["--stls", "refuse"]);
    let address = proxy.address();
    let home = scratch();
    let mut command = isolated("curl", home.path());
    command.args(["--silent", "--ssl-reqd", "--user", &format!("{USER}:{PASSWORD}"), &format!("pop3://{address}/1")]);
    let output = run_unchecked(&mut command);
    // 64: the requested level of TLS could not be had.
    assert_eq!(output.status.code(), Some(64), "{}", describe(&command, &output));
    let transcript = proxy.stop();
    assert!(!transcript.keywords().iter().any(|keyword| ["USER", "PASS", "AUTH"].contains(keyword)));
}
