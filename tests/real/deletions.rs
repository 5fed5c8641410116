//! Deleting: only QUIT makes it so (RFC 1939 §6), and nobody but the client says QUIT.

use crate::support::dovecot::{Dovecot, MODES};
use crate::support::mailbox;
use crate::support::proxy::Proxy;
use crate::support::wire::{Wire, retrieve_all};

#[test]
fn what_a_client_deletes_is_gone_after_quit() {
    let dovecot = Dovecot::start();
    let mut expected = retrieve_all(dovecot.plain());
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        let mut wire = Wire::log_in(proxy.address());
        assert!(wire.ask("DELE 2").starts_with("+OK"));
        wire.quit();
        let transcript = proxy.stop();
        assert_eq!(transcript.only_session()["deleted"], 1, "over {mode:?}");
        expected.remove(1);
        assert!(retrieve_all(dovecot.plain()) == expected, "over {mode:?}");
    }
}

#[test]
fn a_client_that_vanishes_deletes_nothing() {
    let dovecot = Dovecot::start();
    for mode in MODES {
        let proxy = Proxy::start(&dovecot, mode);
        let mut wire = Wire::log_in(proxy.address());
        assert!(wire.ask("DELE 1").starts_with("+OK"));
        drop(wire);
        // poptap ends only when its sessions have, and Dovecot's connection with them.
        let transcript = proxy.stop();
        assert_eq!(transcript.keywords(), ["USER", "PASS", "DELE"], "over {mode:?}");
        assert_eq!(retrieve_all(dovecot.plain()).len(), mailbox::messages().len(), "over {mode:?}: a QUIT was invented");
    }
}
