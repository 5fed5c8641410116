//! Limits on logins: who guesses passwords is blocked, and does not reach the server any more.

use std::fs;

use crate::support::dovecot::Dovecot;
use crate::support::proxy::Proxy;
use crate::support::relay::Relay;
use crate::support::wire::Wire;
use crate::support::{USER, scratch};

const BLOCKED: &str = "-ERR [SYS/TEMP] too many failed logins from your address, try again later\r\n";

#[test]
fn an_address_is_blocked_after_its_failures_before_the_server_hears_of_it() {
    let dovecot = Dovecot::start();
    let relay = Relay::start(dovecot.plain());
    let mut proxy = start(&relay);
    // The failures of two sessions count together.
    let mut wire = Wire::connect(proxy.address());
    fail(&mut wire);
    drop(wire);
    let mut wire = Wire::connect(proxy.address());
    fail(&mut wire);
    assert!(wire.ask("USER nobody").starts_with("+OK"));
    assert_eq!(wire.ask(&format!("PASS {WRONG}")), BLOCKED, "the reply to the third");
    assert_eq!(wire.rest(), b"");
    assert_eq!(relay.connections(), 2);

    for _ in 0..3 {
        let wire = Wire::connect(proxy.address());
        assert_eq!(wire.greeting(), BLOCKED);
        assert_eq!(wire.rest(), b"");
    }
    let line = proxy.wait_for_log(&["client refused"]);
    assert!(line.contains(" WARN ") && line.contains("client=127.0.0.1 reason=client-blocked"), "{line}");
    assert_eq!(relay.connections(), 2, "a blocked client reached the server");

    let transcript = proxy.stop();
    transcript.assert_no_secret(WRONG.as_bytes());
    let reasons: Vec<_> = transcript.sessions.iter().map(|session| session["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "client-blocked").count(), 4, "{reasons:?}");
}

fn start(relay: &Relay) -> Proxy {
    let home = scratch();
    let text = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\n[[upstream]]\nurl = 'pop3://{}'\n[limits]\nlogin_failures = 3\n",
        relay.address()
    );
    fs::write(home.path().join("poptap.toml"), text).unwrap();
    Proxy::start_from_file(home, 1, &[])
}

fn fail(wire: &mut Wire) {
    assert!(wire.ask(&format!("USER {USER}")).starts_with("+OK"));
    let reply = wire.ask(&format!("PASS {WRONG}"));
    assert!(reply.starts_with("-ERR") && reply != BLOCKED, "a wrong password was answered with {reply:?}");
}

const WRONG: &str = "Qx3-walrus-Medlar";
