//! Every kind of client hop, in front of every kind of upstream hop, for every client: the same octets, with the TLS that
//! was asked for on each hop, and a record that is whole.

use std::panic::catch_unwind;

use crate::support::clients::{CLIENTS, Client};
use crate::support::dovecot::{Dovecot, MODES, Mode};
use crate::support::proxy::Proxy;
use crate::support::transcript::{assert_same, sha256};
use crate::support::{USER, mailbox, wire};

/// A test for each client hop, which walks the upstream hops.
macro_rules! matrix {
    ($($name:ident: $client:ident over $hop:ident,)*) => {
        $(#[test] fn $name() { walk(Client::$client, Mode::$hop); })*
    };
}

matrix! {
    curl_in_clear: Curl over Plain,
    curl_with_stls: Curl over Stls,
    curl_with_implicit_tls: Curl over Implicit,
    poplib_in_clear: Poplib over Plain,
    poplib_with_stls: Poplib over Stls,
    poplib_with_implicit_tls: Poplib over Implicit,
    fetchmail_in_clear: Fetchmail over Plain,
    fetchmail_with_stls_as_by_default: Fetchmail over Stls,
    fetchmail_with_implicit_tls: Fetchmail over Implicit,
    mpop_in_clear: Mpop over Plain,
    mpop_with_stls: Mpop over Stls,
    mpop_with_implicit_tls: Mpop over Implicit,
    getmail_in_clear: Getmail over Plain,
    getmail_without_stls_where_it_is_offered: Getmail over Stls,
    getmail_with_implicit_tls: Getmail over Implicit,
    mutt_in_clear: Mutt over Plain,
    mutt_with_stls: Mutt over Stls,
    mutt_with_implicit_tls: Mutt over Implicit,
}

fn walk(client: Client, hop: Mode) {
    let dovecot = Dovecot::start();
    let direct = client.fetch(dovecot.plain());
    assert_eq!(direct.len(), mailbox::messages().len(), "{client:?} left messages out");
    let digests: Vec<_> = wire::retrieve_all(dovecot.plain()).iter().map(|message| sha256(message)).collect();
    for upstream in MODES {
        let what = format!("{client:?} over {hop:?}, poptap over {upstream:?}");
        let proxy = Proxy::start_with_every_listener(&dovecot, upstream, &[]);
        assert_same(&direct, &client.fetch_over(hop, proxy.listener(hop), &proxy.authority()), &what);
        let transcript = proxy.stop();
        let summary = transcript.only_session();
        assert_eq!(transcript.digests_of(summary["session"].as_str().unwrap()), digests, "{what}");
        assert_eq!((&summary["user"], &summary["logged_in"]), (&USER.into(), &true.into()), "{what}: {summary:#}");
        assert!(summary.get("opaque").is_none(), "{what}: {summary:#}");

        let mut expected = Vec::new();
        expected.extend((upstream != Mode::Plain).then_some(("upstream", upstream.name())));
        expected.extend(client.speaks_tls(hop).then_some(("client", hop.name())));
        let mut seen: Vec<_> = transcript.of_kind("tls").map(|tls| (text(&tls["hop"]), text(&tls["mode"]))).collect();
        // Either hop may be ready first.
        expected.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, expected, "{what}");
        for (key, hop) in [("client_tls", "client"), ("upstream_tls", "upstream")] {
            let versions: Vec<_> = transcript.of_kind("tls").filter(|tls| tls["hop"] == hop).map(|tls| &tls["version"]).collect();
            assert_eq!(summary.get(key).into_iter().collect::<Vec<_>>(), versions, "{what}: {summary:#}");
        }
    }
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap()
}

/// The fetches above would show nothing of TLS if the clients took any certificate.
#[test]
fn no_client_logs_in_where_it_cannot_verify_the_certificate() {
    let dovecot = Dovecot::start();
    let proxy = Proxy::start_with_every_listener(&dovecot, Mode::Plain, &[]);
    let mut tried = 0;
    for client in CLIENTS {
        for hop in MODES.into_iter().filter(|hop| client.speaks_tls(*hop)) {
            tried += 1;
            // Most of them fail, and the fetch with them.
            let fetched = catch_unwind(|| client.fetch_over(hop, proxy.listener(hop), dovecot.authority()));
            assert!(fetched.is_err() || fetched.is_ok_and(|inbox| inbox.is_empty()), "{client:?} over {hop:?}");
        }
    }
    let transcript = proxy.stop();
    assert!(transcript.sessions.len() >= tried, "{:#?}", transcript.sessions);
    for keyword in transcript.keywords() {
        assert!(["CAPA", "STLS", "QUIT"].contains(&keyword), "{keyword}");
    }
}
