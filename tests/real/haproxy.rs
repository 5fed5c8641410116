//! `HAProxy` in front of poptap, Dovecot behind it: everybody knows who the client is, and health checks are answered.

use crate::support::clients::{Login, curl_stat};
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::haproxy::Haproxy;
use crate::support::proxy::Proxy;
use crate::support::{USER, scratch};

/// `HAProxy`'s own connections come from 127.0.0.1.
const CLIENT: &str = "127.0.0.2";

fn start(dovecot: &Dovecot) -> Proxy {
    let home = scratch();
    let text = format!(
        "[[upstream]]\nurl = 'pop3://{}'\nproxy_protocol = 'v2'\n\
         [[listener]]\naddress = '127.0.0.1:0'\nproxy_from = ['127.0.0.1']\nallow_from = ['192.0.2.0/24']\n",
        dovecot.announced()
    );
    std::fs::write(home.path().join("poptap.toml"), text).unwrap();
    Proxy::start_from_file(home, 1, &[])
}

#[test]
fn the_client_of_haproxy_is_the_client_for_poptap_and_for_dovecot() {
    let dovecot = Dovecot::start_with(&["haproxy_trusted_networks = 127.0.0.0/8"]);
    let proxy = start(&dovecot);
    let haproxy = Haproxy::start(proxy.address());
    assert_eq!(curl_stat(Mode::Plain, haproxy.v1, Some(CLIENT), &haproxy.authority()), Login::Accepted);
    assert_eq!(curl_stat(Mode::Implicit, haproxy.v2, Some(CLIENT), &haproxy.authority()), Login::Accepted);
    let output = haproxy.output();
    drop(haproxy);
    let transcript = proxy.stop();
    dovecot.wait_for_log(&["Login: ", &format!("user=<{USER}>"), &format!("rip={CLIENT}")]);
    let is_client = |value: &serde_json::Value| value["client"].as_str().unwrap().starts_with(&format!("{CLIENT}:"));
    let logins: Vec<_> = transcript.sessions.iter().filter(|session| session["logged_in"] == true).collect();
    assert!(logins.len() == 2 && logins.iter().all(|session| is_client(session)), "{logins:#?}\n{output}");
    assert!(logins.iter().all(|session| session["proxied_by"].as_str().unwrap().starts_with("127.0.0.1:")), "{logins:#?}");
    let announced: Vec<_> =
        transcript.of_kind("opened").filter(|event| is_client(event)).map(|event| &event["announced"]).collect();
    assert_eq!((&announced[0]["header"], &announced[1]["header"]), (&"v1".into(), &"v2".into()));
    assert!(announced[1]["tls_version"].as_str().unwrap().starts_with("TLSv1."), "{announced:#?}");
    assert!(announced[1]["tls_cipher"].is_string(), "{announced:#?}");
}

#[test]
fn health_checks_reach_the_server_and_none_fails() {
    let dovecot = Dovecot::start_with(&["haproxy_trusted_networks = 127.0.0.0/8"]);
    let mut proxy = start(&dovecot);
    let haproxy = Haproxy::start(proxy.address());
    // Those of both backends, by both versions.
    (0..12).for_each(|_| drop(proxy.wait_for_log(&["session opened"])));
    let output = haproxy.output();
    assert!(!output.contains("DOWN"), "{output}");
    drop(haproxy);
    let transcript = proxy.stop();
    let own: Vec<_> = transcript.of_kind("opened").filter(|event| event["announced"]["anonymous"] == true).collect();
    assert!(!own.is_empty(), "version 2 says LOCAL");
    assert!(own.iter().all(|event| event["client"].as_str().unwrap().starts_with("127.0.0.1:")), "{own:#?}");
}
