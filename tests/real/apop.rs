//! APOP: it works where the server's timestamp is to be trusted, and is taken away where it is not.

use regex::Regex;

use crate::support::clients::fetch_with_apop;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::{self, Wire};

#[test]
fn apop_works_and_its_digest_is_not_recorded() {
    let dovecot = Dovecot::start_with(&["auth_mechanisms = plain apop"]);
    assert!(fetch_with_apop(dovecot.plain()) == wire::retrieve_all(dovecot.plain()), "poplib fetches something else");
    let digest = Regex::new("[0-9a-f]{32}").unwrap();
    for mode in [Mode::Plain, Mode::Implicit] {
        let proxy = Proxy::start(&dovecot, mode);
        assert!(fetch_with_apop(proxy.address()) == wire::retrieve_all(dovecot.plain()), "other octets over {mode:?}");
        let transcript = proxy.stop();
        let command = transcript.of_kind("command").next().unwrap().to_string();
        assert!(command.contains("APOP"), "{command}");
        assert!(!digest.is_match(&command), "{command}");
        let summary = transcript.only_session();
        assert_eq!((&summary["logged_in"], &summary["mechanism"]), (&true.into(), &"APOP".into()), "{summary:#}");
    }
}

/// Whoever sits on the wire may choose a timestamp that was sent before TLS.
#[test]
fn a_timestamp_from_before_tls_does_not_reach_the_client() {
    let dovecot = Dovecot::start_with(&["auth_mechanisms = plain apop"]);
    let direct = Wire::connect(dovecot.plain());
    assert!(direct.greeting().contains('<'), "Dovecot offers no APOP: {:?}", direct.greeting());

    let proxy = Proxy::start(&dovecot, Mode::Stls);
    let wire = Wire::connect(proxy.address());
    assert!(!wire.greeting().contains('<'), "{:?}", wire.greeting());
    assert!(wire.greeting().starts_with("+OK"), "{:?}", wire.greeting());
    wire.quit();
    let transcript = proxy.stop();
    assert!(transcript.of_kind("decision").any(|event| event["action"] == "edit-line"));

    let proxy = Proxy::start_with(&dovecot, Mode::Stls, &["--apop", "pass"]);
    let wire = Wire::connect(proxy.address());
    assert!(wire.greeting().contains('<'), "{:?}", wire.greeting());
    wire.quit();
    proxy.stop();
}
