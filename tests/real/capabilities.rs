//! What the server says it can do, before and after the login, as a client behind poptap sees it.

use std::net::SocketAddr;

use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::{Wire, retrieve_all};
use crate::support::{PASSWORD, USER};

/// The answers to CAPA and to bare AUTH before the login, and to CAPA after it.
fn capabilities(address: SocketAddr) -> [Vec<String>; 3] {
    let mut wire = Wire::connect(address);
    let (before, mechanisms) = (wire.ask_for_lines("CAPA"), wire.ask_for_lines("AUTH"));
    assert!(wire.ask(&format!("USER {USER}")).starts_with("+OK"));
    assert!(wire.ask(&format!("PASS {PASSWORD}")).starts_with("+OK"));
    let after = wire.ask_for_lines("CAPA");
    wire.quit();
    [before, mechanisms, after]
}

#[test]
fn stls_is_offered_where_it_works_and_nothing_else_changes() {
    let dovecot = Dovecot::start();
    let direct = capabilities(dovecot.plain());
    assert!(direct[0].contains(&"STLS".to_owned()), "Dovecot offers no STLS: {direct:?}");
    for mode in MODES {
        let mut expected = direct.clone();
        if mode != Mode::Plain {
            expected[0].retain(|line| line != "STLS");
        }
        let proxy = Proxy::start(&dovecot, mode);
        assert_eq!(capabilities(proxy.address()), expected, "over {mode:?}");
        let transcript = proxy.stop();
        assert_eq!(transcript.keywords(), ["CAPA", "AUTH", "USER", "PASS", "CAPA", "QUIT"]);
        // Dovecot itself offers no STLS inside TLS, so there was nothing to remove anywhere.
        assert_eq!(transcript.of_kind("decision").count(), 0, "over {mode:?}");
    }
}

#[test]
fn stls_is_hidden_where_it_is_refused_but_not_in_messages() {
    let dovecot = Dovecot::start();
    let mut expected = capabilities(dovecot.plain());
    expected[0].retain(|line| line != "STLS");
    let sent = retrieve_all(dovecot.plain());
    let proxy = Proxy::start_with(&dovecot, Mode::Plain, &["--stls", "refuse"]);
    assert_eq!(capabilities(proxy.address()), expected);
    assert!(retrieve_all(proxy.address()) == sent, "a message was changed");
    let transcript = proxy.stop();
    let decisions: Vec<_> = transcript.of_kind("decision").map(|event| &event["action"]).collect();
    assert_eq!(decisions, ["remove-line"]);
}
