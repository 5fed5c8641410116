//! Listeners that take connections which were meant for others.

use super::{UPSTREAM, config, faults, load_words};
use crate::config::{Dial, Otherwise, Source, TlsDemand, Transparent, effective};

const ENTRY: &str = "destinations = [{ to = '192.0.2.0/24', port = 110, upstream = 'pop3s://mail', dial = 'original' }]\n";

fn listener(keys: &str) -> String {
    format!("{UPSTREAM}[[listener]]\n{keys}")
}

#[test]
fn a_table_is_read_and_written() {
    let keys = format!(
        "transparent = 'tproxy'\nupstream = 'original'\notherwise = 'plain'\nallow_to = ['192.0.2.0/24', '2001:db8::/32']\nsource = 'client'\n{ENTRY}"
    );
    let loaded = config(Some(&listener(&keys)), "");
    let [only] = &loaded.listeners[..] else { panic!("one listener") };
    let interception = only.interception.as_ref().unwrap();
    let table = interception.table.as_ref().unwrap();
    assert_eq!((interception.how, interception.allow_to.len(), only.source), (Transparent::Tproxy, 2, Source::Client));
    assert_eq!((table.otherwise, table.destinations[0].dial), (Otherwise::Plain, Dial::Original));
    assert_eq!(only.upstream_names(), "pop3s://mail, original");
    let toml = effective(&loaded).unwrap();
    assert_eq!(config(Some(&toml), ""), loaded, "{toml}");
}

#[test]
fn a_server_of_the_flags_is_for_every_destination() {
    let loaded = config(Some(&listener(&format!("transparent = 'redirect'\nupstream = 'original'\n{ENTRY}"))), "pop3://other");
    let interception = loaded.listeners[0].interception.as_ref().unwrap();
    assert_eq!((&interception.table, loaded.listeners[0].upstream_names()), (&None, "pop3://other".to_owned()));
}

#[test]
fn what_contradicts_itself_is_a_fault() {
    for (keys, said) in [
        ("upstream = 'original'\n".to_owned(), "`upstream = \"original\"` is for listeners whose clients wanted to reach others"),
        ("otherwise = 'plain'\n".to_owned(), "`otherwise` is for listeners"),
        ("allow_to = ['192.0.2.1']\n".to_owned(), "`allow_to` is for listeners"),
        (format!("transparent = 'redirect'\n{ENTRY}"), "every client of this listener is carried to the same upstream"),
        ("transparent = 'redirect'\nupstream = 'original'\n".to_owned(), "this listener would refuse every destination"),
        ("transparent = 'redirect'\nallow_to = ['any']\n".to_owned(), "`allow_to` would allow every destination"),
        (
            "transparent = 'redirect'\nproxy_from = ['192.0.2.1']\n".to_owned(),
            "a proxy's connections are meant for this listener",
        ),
        ("tls = 'pass'\nupstream = 'pop3://mail'\n".to_owned(), "TLS that is carried unread cannot go to `pop3://mail`"),
    ] {
        let found = faults(&listener(&keys), "");
        assert!(found.iter().any(|fault| fault.contains(said)), "{keys}: {found:?}");
    }
    let reserved = faults("[[upstream]]\nname = 'original'\nurl = 'pop3://mail'\n", "");
    assert!(reserved[0].contains("`original` stands for the server that a client wanted to reach"), "{reserved:?}");
}

#[test]
fn tls_that_is_carried_unread_is_open_to_all_and_beyond_rules() {
    let text = listener("address = ':1995'\ntls = 'pass'\n");
    let loaded = config(Some(&text), "");
    assert_eq!((loaded.listeners[0].demand, loaded.listeners[0].may_be_plain()), (TlsDemand::Pass, false));
    assert_eq!(config(Some(&effective(&loaded).unwrap()), ""), loaded);
    let warnings = load_words(Some(&text), "--deny DELE").unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("no rule holds on the listener")), "{warnings:?}");
}
