//! SIGHUP exchanges certificates while sessions go on; what cannot be used changes nothing, and the log says so.

use std::fs;
use std::path::{Path, PathBuf};

use poptap::tls::{Authority, Validity};
use time::{Duration, OffsetDateTime};

use crate::support::certificates::{self, CHAIN, KEY, NAMES};
use crate::support::clients::{Login, curl_stat};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;

#[test]
fn new_connections_see_the_new_certificate_and_open_sessions_go_on() {
    let dovecot = Dovecot::start();
    let mut proxy = Proxy::start_with_every_listener(&dovecot, Mode::Plain, &[]);
    let old = keep_authority(&proxy);
    let mut open = Wire::connect_over(Mode::Implicit, proxy.listener(Mode::Implicit), &old).logged_in();
    // This one has yet to start TLS: it does so with what holds then.
    let waiting = Wire::connect(proxy.listener(Mode::Stls));
    assert_sees(&proxy, &old, Login::Accepted);

    certificates::make_for_listener(proxy.home());
    let new = proxy.authority();
    assert_sees(&proxy, &old, Login::Accepted);
    assert_sees(&proxy, &new, Login::Distrusted);
    proxy.signal("HUP");
    let said = proxy.wait_for_log(&["reloaded: ", "reload failed"]);
    assert!(said.contains("reloaded: "), "{said}");
    assert_sees(&proxy, &old, Login::Distrusted);
    assert_sees(&proxy, &new, Login::Accepted);

    assert!(open.ask("STAT").starts_with("+OK"));
    open.ask_for_body("RETR 1");
    open.quit();
    waiting.quit();
    let transcript = proxy.stop();
    assert!(transcript.sessions.iter().all(|session| session["reason"] != "drain"), "{:#?}", transcript.sessions);
}

#[test]
fn what_cannot_be_used_leaves_the_old_certificate_in_place() {
    let dovecot = Dovecot::start();
    let mut proxy = Proxy::start_with_every_listener(&dovecot, Mode::Plain, &[]);
    let old = keep_authority(&proxy);
    let mut open = Wire::connect_over(Mode::Implicit, proxy.listener(Mode::Implicit), &old).logged_in();
    let chain = fs::read(proxy.home().join(CHAIN)).unwrap();
    let key = fs::read(proxy.home().join(KEY)).unwrap();

    let other = Authority::new("another authority").unwrap();
    let fresh = other.issue(&NAMES, Validity::days(30)).unwrap();
    let now = OffsetDateTime::now_utc();
    let past = Validity { from: now - Duration::days(30), to: now - Duration::days(1) };
    let expired = other.issue(&NAMES, past).unwrap();
    let expired_key = expired.key_pem();
    let faults: [(&str, &[u8], &[u8], &str); 4] = [
        ("a key of another certificate", fresh.chain_pem.as_bytes(), &key, KEY),
        ("an expired certificate", expired.chain_pem.as_bytes(), expired_key.as_bytes(), "expired"),
        ("garbage for a certificate", b"\0garbage\xff", &key, CHAIN),
        ("garbage for a key", &chain, b"-----BEGIN PRIVATE KEY-----\ngarbage\n", KEY),
    ];
    for (what, chain, key, words) in faults {
        fs::write(proxy.home().join(CHAIN), chain).unwrap();
        fs::write(proxy.home().join(KEY), key).unwrap();
        proxy.signal("HUP");
        let said = proxy.wait_for_log(&["reloaded: ", "reload failed"]);
        assert!(said.contains("reload failed") && said.contains(words), "{what}: {said}");
        assert_sees(&proxy, &old, Login::Accepted);
        assert!(open.ask("NOOP").starts_with("+OK"), "{what}");
    }
    // It was not worn out by that: the next good pair is taken.
    certificates::write_for_listener(proxy.home(), &other, &fresh);
    proxy.signal("HUP");
    let said = proxy.wait_for_log(&["reloaded: ", "reload failed"]);
    assert!(said.contains("reloaded: "), "{said}");
    assert_sees(&proxy, &proxy.authority(), Login::Accepted);
    open.quit();
    proxy.stop();
}

/// Copy the authority, which the next one replaces.
fn keep_authority(proxy: &Proxy) -> PathBuf {
    let kept = proxy.home().join("old-ca.pem");
    fs::copy(proxy.authority(), &kept).unwrap();
    kept
}

/// Both listeners with TLS look so to a curl that trusts this authority.
fn assert_sees(proxy: &Proxy, authority: &Path, expected: Login) {
    for hop in [Mode::Implicit, Mode::Stls] {
        assert_eq!(curl_stat(hop, proxy.listener(hop), None, authority), expected, "{hop:?} with {}", authority.display());
    }
}
