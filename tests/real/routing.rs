//! Real clients whose server is known only when they log in.

use std::fs;

use crate::support::clients::CLIENTS;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::Proxy;
use crate::support::transcript::assert_same;
use crate::support::{USER, scratch};

/// One Dovecot is where the user is, over verified TLS; the other one is where everybody else would be.
#[test]
fn every_client_fetches_from_the_server_of_its_user() {
    let (theirs, other) = (Dovecot::start(), Dovecot::start());
    let home = scratch();
    fs::write(home.path().join("users.map"), format!("{USER} theirs\n")).unwrap();
    let text = format!(
        "[[listener]]\naddress = '127.0.0.1:0'\nmap = '{}'\nupstream = 'other'\n\
         [[upstream]]\nname = 'theirs'\nurl = '{}'\nca_file = '{}'\n[[upstream]]\nname = 'other'\nurl = '{}'\n",
        home.path().join("users.map").display(),
        theirs.url(Mode::Stls),
        theirs.authority().display(),
        other.url(Mode::Plain),
    );
    fs::write(home.path().join("poptap.toml"), text).unwrap();
    let proxy = Proxy::start_from_file(home, 1, &[]);
    for client in CLIENTS {
        assert_same(&client.fetch(theirs.plain()), &client.fetch(proxy.address()), &format!("{client:?}"));
    }
    let transcript = proxy.stop();
    let logins: Vec<_> = transcript.sessions.iter().filter(|session| session["logged_in"] == true).collect();
    assert!(logins.len() >= CLIENTS.len(), "{:#?}", transcript.sessions);
    for session in logins {
        assert_eq!((&session["upstream"], session["upstream_tls"].is_string()), (&"theirs".into(), true), "{session:#}");
    }
}
