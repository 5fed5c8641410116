//! Any octets from both sides, in any interleaving and any cuts, without rules: no panic, nothing added, nothing lost,
//! nothing out of order, never stuck, and the same events however it was cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poptap::{
    policy::{Builtin, Settings},
    pop3::Peer,
    tap::Untouched,
};
use poptap_fuzz::{
    Conversation,
    play::{apart, pieces_of, play, random_pieces, said, sides, was_closed},
};

fuzz_target!(|octets: &[u8]| {
    let Some(conversation) = Conversation::of(octets) else { return };
    identity(&conversation);
    chunking(&conversation);
});

fn identity(conversation: &Conversation) {
    let most = usize::from(conversation.cuts) + 1;
    let played = play(Untouched, &conversation.steps, &mut random_pieces(u64::from(conversation.setting), most));
    let (client, upstream) = (said(&conversation.steps, Peer::Client), said(&conversation.steps, Peer::Upstream));
    assert!(client.starts_with(&played.to_upstream) && upstream.starts_with(&played.to_client), "octets were changed");
    if was_closed(&played) {
        return;
    }
    // Only an STLS whose reply has not come holds a client's octets back, and only half a greeting a server's.
    let gated = played.events.iter().any(|event| event.contains("STLS"));
    let ended = |peer| conversation.steps.iter().position(|step| format!("{step:?}") == format!("{peer:?} ends")).is_some();
    assert!(gated || ended(Peer::Client) || ended(Peer::Upstream) || played.to_upstream == client, "stuck: {:#?}", played.events);
    assert!(ended(Peer::Upstream) || played.to_client == upstream || played.to_client.is_empty(), "stuck: {:#?}", played.events);
}

fn chunking(conversation: &Conversation) {
    let settings = Settings { refuse_stls: conversation.setting % 2 == 0, ..Settings::default() };
    let steps = apart(conversation.steps.clone());
    let whole = play(Builtin::new(settings), &steps, &mut pieces_of(usize::MAX));
    let cut = play(
        Builtin::new(settings),
        &steps,
        &mut random_pieces(u64::from(conversation.cuts), 1 + usize::from(conversation.cuts) % 40),
    );
    assert_eq!(sides(&whole), sides(&cut));
    if !was_closed(&whole) {
        assert_eq!((&whole.to_upstream, &whole.to_client), (&cut.to_upstream, &cut.to_client));
    }
}
