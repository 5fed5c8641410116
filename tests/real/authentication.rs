//! Logins of every kind, good and bad: they work as without poptap, and no secret of theirs is recorded anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::clients::isolated;
use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::process::{describe, run_unchecked};
use crate::support::proxy::Proxy;
use crate::support::wire::Wire;
use crate::support::{PASSWORD, USER, scratch};

/// What no account has; long enough to be recognised wherever it turns up.
const WRONG: &str = "Zx7-lantern-Osier";

fn plain(password: &str) -> String {
    STANDARD.encode(format!("\0{USER}\0{password}"))
}

#[test]
fn auth_plain_works_with_and_without_an_initial_response() {
    let dovecot = Dovecot::start();
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        let mut at_once = Wire::connect(proxy.address());
        assert!(at_once.ask(&format!("AUTH PLAIN {}", plain(PASSWORD))).starts_with("+OK"));
        at_once.quit();
        let mut asked = Wire::connect(proxy.address());
        assert_eq!(asked.ask("AUTH PLAIN"), "+ \r\n");
        assert!(asked.ask(&plain(PASSWORD)).starts_with("+OK"));
        assert!(asked.ask("STAT").starts_with("+OK"));
        asked.quit();

        let transcript = proxy.stop();
        transcript.assert_no_secret(plain(PASSWORD).as_bytes());
        assert_eq!(transcript.keywords(), ["AUTH", "QUIT", "AUTH", "STAT", "QUIT"], "over {mode:?}");
        for session in &transcript.sessions {
            assert_eq!((&session["user"], &session["mechanism"]), (&USER.into(), &"PLAIN".into()), "{session:#}");
            assert_eq!(session["logged_in"], true, "{session:#}");
        }
        assert_eq!(transcript.sessions.len(), 2);
        assert_eq!(transcript.of_kind("sasl").filter(|event| event["from"] == "client").count(), 1);
        assert_eq!(transcript.of_kind("sasl").filter(|event| event["from"] == "upstream").count(), 1);
    }
}

#[test]
fn auth_login_works_and_a_cancelled_exchange_can_be_tried_again() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start(&dovecot, Mode::Implicit);
    let mut wire = Wire::connect(proxy.address());
    assert!(wire.ask("AUTH LOGIN").starts_with("+ "));
    assert!(wire.ask("*").starts_with("-ERR"));
    assert!(wire.ask("AUTH LOGIN").starts_with("+ "));
    assert!(wire.ask(&STANDARD.encode(USER)).starts_with("+ "));
    assert!(wire.ask(&STANDARD.encode(PASSWORD)).starts_with("+OK"));
    assert!(wire.ask("STAT").starts_with("+OK"));
    wire.quit();
    let transcript = proxy.stop();
    let summary = transcript.only_session();
    assert_eq!((&summary["user"], &summary["mechanism"]), (&USER.into(), &"LOGIN".into()), "{summary:#}");
    assert_eq!(transcript.keywords(), ["AUTH", "AUTH", "STAT", "QUIT"]);
    assert_eq!(transcript.of_kind("sasl").filter(|event| event["cancel"] == true).count(), 1);
}

#[test]
fn curl_learns_of_a_wrong_password_as_without_a_proxy() {
    let dovecot = Dovecot::start();
    for (mode, mechanism) in [(Mode::Plain, "AUTH=*"), (Mode::Implicit, "AUTH=PLAIN"), (Mode::Stls, "AUTH=LOGIN")] {
        let proxy = Proxy::start(&dovecot, mode);
        for address in [dovecot.plain(), proxy.address()] {
            let home = scratch();
            let mut command = isolated("curl", home.path());
            command.args(["--silent", "--user", &format!("{USER}:{WRONG}"), "--login-options", mechanism]);
            let output = run_unchecked(command.arg(format!("pop3://{address}/1")));
            // 67: the login was refused.
            assert_eq!(output.status.code(), Some(67), "{}", describe(&command, &output));
        }
        let transcript = proxy.stop();
        transcript.assert_no_secret(WRONG.as_bytes());
        let summary = transcript.only_session();
        assert_eq!((&summary["logged_in"], &summary["login_failures"]), (&false.into(), &1.into()), "{summary:#}");
    }
}

/// Dovecot repeats what it did not understand; by then it may be a password.
#[test]
fn mistyped_secrets_are_not_recorded() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start(&dovecot, Mode::Plain);
    let mut wire = Wire::connect(proxy.address());
    assert!(wire.ask(&format!("PSAS {WRONG}")).starts_with("-ERR"));
    assert!(wire.ask(WRONG).starts_with("-ERR"));
    assert!(wire.ask(&format!("USER {USER}")).starts_with("+OK"));
    assert!(wire.ask(&format!("  pass {PASSWORD}")).starts_with("-ERR"));
    drop(wire);
    let mut wire = Wire::log_in(proxy.address());
    let echo = wire.ask(WRONG);
    assert!(echo.to_uppercase().contains(&WRONG.to_uppercase()), "Dovecot repeats nothing any more: {echo:?}");
    wire.quit();
    let transcript = proxy.stop();
    transcript.assert_no_secret(WRONG.as_bytes());
    transcript.assert_no_secret(WRONG.to_uppercase().as_bytes());
}

/// The credentials of a refused AUTH arrive as a command of their own, which the server refuses as well.
#[test]
fn credentials_pipelined_behind_a_refused_auth_are_not_recorded() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start(&dovecot, Mode::Plain);
    let mut wire = Wire::connect(proxy.address());
    wire.send(format!("AUTH XNONE\r\n{}\r\nQUIT\r\n", plain(PASSWORD)).as_bytes());
    let replies = String::from_utf8(wire.rest()).unwrap();
    assert_eq!(replies.lines().filter(|line| line.starts_with("-ERR")).count(), 2, "{replies}");
    let transcript = proxy.stop();
    transcript.assert_no_secret(plain(PASSWORD).as_bytes());
    assert_eq!(transcript.only_session()["reason"], "quit");
}
