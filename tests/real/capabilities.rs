//! What the server says it can do, before and after the login, as a client behind poptap sees it.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::clients::log_in_with_scram;
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

/// Dovecot 2.3 has no mechanism that is bound to a channel (`-PLUS`): what becomes of those, a scripted server shows.
const MECHANISMS: &str = "auth_mechanisms = scram-sha-1 scram-sha-256 plain login external";

/// What a client learns over a hop, as octets: CAPA and bare AUTH before the login, CAPA after it.
fn listings(hop: Mode, address: SocketAddr, authority: &Path) -> [Vec<u8>; 3] {
    let mut wire = Wire::connect_over(hop, address, authority);
    let (before, mechanisms) = (wire.ask_for_body("CAPA"), wire.ask_for_body("AUTH"));
    let mut wire = wire.logged_in();
    let after = wire.ask_for_body("CAPA");
    wire.quit();
    [before, mechanisms, after]
}

fn without(listing: &[u8], line: &str) -> Vec<u8> {
    edited(listing, &format!("{line}\r\n"), "")
}

fn edited(listing: &[u8], old: &str, new: &str) -> Vec<u8> {
    let text = std::str::from_utf8(listing).unwrap();
    assert!(text.contains(old), "there is no {old:?} in {text:?}");
    text.replacen(old, new, 1).into_bytes()
}

#[test]
fn every_pair_of_hops_tells_the_truth() {
    let dovecot = Dovecot::start_with(&[MECHANISMS]);
    let [before, mechanisms, after] = listings(Mode::Plain, dovecot.plain(), dovecot.authority());
    // The certificate of a client does not pass poptap.
    let no_external = edited(&before, " EXTERNAL\r\n", "\r\n");
    let inside_tls = [without(&no_external, "STLS"), without(&mechanisms, "EXTERNAL"), after.clone()];
    for upstream in MODES {
        let proxy = Proxy::start_with_every_listener(&dovecot, upstream, &[]);
        let ca = proxy.authority();

        let in_clear = if upstream == Mode::Plain { before.clone() } else { without(&before, "STLS") };
        let got = listings(Mode::Plain, proxy.listener(Mode::Plain), &ca);
        assert_eq!(got, [in_clear, mechanisms.clone(), after.clone()], "plain, poptap over {upstream:?}");
        for hop in [Mode::Stls, Mode::Implicit] {
            assert_eq!(listings(hop, proxy.listener(hop), &ca), inside_tls, "{hop:?}, poptap over {upstream:?}");
        }

        // A server that is not asked for STLS inside TLS does not list it: then poptap does, at the end.
        let offered = match upstream {
            Mode::Plain => no_external.clone(),
            _ => [without(&no_external, "STLS").strip_suffix(b".\r\n").unwrap(), b"STLS\r\n.\r\n"].concat(),
        };
        let mut wire = Wire::connect(proxy.listener(Mode::Stls));
        assert_eq!(wire.ask_for_body("CAPA"), offered, "before STLS, poptap over {upstream:?}");
        assert_eq!(wire.ask_for_body("AUTH"), inside_tls[1], "before STLS, poptap over {upstream:?}");
        let mut wire = wire.start_tls(&ca);
        assert_eq!(wire.ask_for_body("CAPA"), inside_tls[0], "after STLS, poptap over {upstream:?}");
        assert!(wire.ask("STLS").starts_with("-ERR"), "a second STLS, poptap over {upstream:?}");
        wire.quit();

        // Servers keep a name across STLS: once one was sent, it is too late.
        let mut wire = Wire::connect(proxy.listener(Mode::Stls));
        assert!(wire.ask(&format!("USER {USER}")).starts_with("+OK"));
        assert_eq!(wire.ask_for_body("CAPA"), inside_tls[0], "after USER, poptap over {upstream:?}");
        assert!(wire.ask("STLS").starts_with("-ERR"), "STLS after USER, poptap over {upstream:?}");
        assert!(wire.ask(&format!("PASS {PASSWORD}")).starts_with("+OK"));
        assert_eq!(wire.ask_for_body("CAPA"), after, "poptap over {upstream:?}");
        wire.quit();
        assert_eq!(proxy.stop().sessions.len(), 5);
    }
}

/// Whether the server binds to channels stands in CAPA alone. Until then nothing that could be bound is listed where TLS ends
/// at poptap on both sides.
#[test]
fn a_bare_auth_lists_scram_between_two_tls_hops_only_behind_capa() {
    let dovecot = Dovecot::start_with(&[MECHANISMS]);
    for upstream in MODES {
        let proxy = Proxy::start_with_every_listener(&dovecot, upstream, &[]);
        for hop in MODES {
            let mut wire = Wire::connect_over(hop, proxy.listener(hop), &proxy.authority());
            let scram = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("SCRAM-")).count();
            let (first, _, then) = (wire.ask_for_lines("AUTH"), wire.ask_for_lines("CAPA"), wire.ask_for_lines("AUTH"));
            let unknown = hop != Mode::Plain && upstream != Mode::Plain;
            assert_eq!((scram(first), scram(then)), (if unknown { 0 } else { 2 }, 2), "{hop:?}, poptap over {upstream:?}");
            wire.quit();
        }
        proxy.stop();
    }
}

/// A client with SCRAM but without channel binding logs in through TLS on both hops.
#[test]
fn scram_without_channel_binding_works_between_two_tls_hops() {
    let dovecot = Dovecot::start_with(&[MECHANISMS]);
    for (hop, upstream) in [(Mode::Plain, Mode::Plain), (Mode::Implicit, Mode::Implicit), (Mode::Stls, Mode::Stls)] {
        let proxy = Proxy::start_with_every_listener(&dovecot, upstream, &[]);
        log_in_with_scram(hop, proxy.listener(hop), &proxy.authority());
        let transcript = proxy.stop();
        let summary = transcript.only_session();
        assert_eq!((&summary["logged_in"], &summary["mechanism"]), (&true.into(), &"SCRAM-SHA-256".into()), "{summary:#}");
    }
}
