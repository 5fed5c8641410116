//! The server is told who the client is, and whether it came with TLS: the PROXY protocol, as Dovecot understands it.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::clients::{Login, curl_stat};
use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::{USER, certificates, scratch};

/// To Dovecot a connection from its own address is secure; this one differs from poptap's.
const CLIENT: &str = "127.0.0.2";

#[test]
fn dovecot_refuses_logins_in_clear_behind_poptap_and_accepts_those_with_tls() {
    let settings = ["haproxy_trusted_networks = 127.0.0.0/8", "disable_plaintext_auth = yes"];
    let dovecot = Dovecot::start_with(&settings);
    for mode in MODES {
        let proxy = start(dovecot.announced(), "v2");
        let login = curl_stat(mode, proxy.listener(mode), Some(CLIENT), &proxy.authority());
        let transcript = proxy.stop();
        let session = transcript.only_session();
        if mode == Mode::Plain {
            assert_eq!(login, Login::Refused, "{session:#}");
            assert_eq!(session["logged_in"], false, "{session:#}");
        } else {
            assert_eq!(login, Login::Accepted, "over {mode:?}: {session:#}");
            assert_eq!(session["logged_in"], true, "{session:#}");
        }
    }
    // Dovecot's own words: one session in clear, and two with TLS, all from the client's address.
    let address = format!("rip={CLIENT}");
    let refused = dovecot.wait_for_log(&["Disconnected", &address]);
    assert!(!refused.contains("TLS") && !refused.contains("secured"), "{refused}");
    let accepted = dovecot.wait_for_log(&["Login: ", &format!("user=<{USER}>"), &address]);
    assert!(accepted.contains("TLS") || accepted.contains("secured"), "{accepted}");
}

/// What the test above shows depends on poptap: Dovecot refuses the same clients when it sees poptap's address alone, or none.
#[test]
fn dovecot_hears_of_no_client_where_none_is_announced() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start_with_every_listener(&dovecot, Mode::Plain, &[]);
    assert_eq!(curl_stat(Mode::Implicit, proxy.listener(Mode::Implicit), Some(CLIENT), &proxy.authority()), Login::Accepted);
    proxy.stop();
    let login = dovecot.wait_for_log(&["Login: ", &format!("user=<{USER}>")]);
    assert!(login.contains("rip=127.0.0.1"), "{login}");
}

/// Version 1 says nothing of TLS: Dovecot hears the client's address on every listener, and of no login that is secure.
#[test]
fn dovecot_understands_version_1() {
    let dovecot = Dovecot::start_with(&["haproxy_trusted_networks = 127.0.0.0/8", "disable_plaintext_auth = no"]);
    for mode in MODES {
        let proxy = start(dovecot.announced(), "v1");
        let login = curl_stat(mode, proxy.listener(mode), Some(CLIENT), &proxy.authority());
        let transcript = proxy.stop();
        assert_eq!(login, Login::Accepted, "over {mode:?}: {:#}", transcript.only_session());
    }
    let said = dovecot.wait_for_log(&["Login: ", &format!("user=<{USER}>"), &format!("rip={CLIENT}")]);
    assert!(!said.contains("TLS"), "{said}");
}

/// A poptap with every kind of listener that announces its clients to a plain server.
fn start(server: SocketAddr, version: &str) -> Proxy {
    let home = scratch();
    certificates::make_for_listener(home.path());
    std::fs::write(home.path().join("poptap.toml"), configuration(home.path(), server, version)).unwrap();
    Proxy::start_from_file(home, MODES.len(), &[])
}

fn configuration(home: &Path, server: SocketAddr, version: &str) -> String {
    let mut text = format!("[[upstream]]\nurl = 'pop3://{server}'\nproxy_protocol = '{version}'\n");
    for mode in MODES {
        text.extend(["[[listener]]\naddress = '", mode.scheme(), "://127.0.0.1:0'\n"]);
        if mode != Mode::Plain {
            text += &certificates::settings(home);
        }
    }
    text
}
