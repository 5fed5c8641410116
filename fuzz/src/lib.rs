//! What the fuzzers share: how a file of octets becomes a conversation, and the player of the property tests.
//!
//! A conversation is written as the dialogues of `tests/dialogues` are, but for any octets: the first octet chooses the setting,
//! the second how everything is cut, and then each part begins with the octet 0xFF and a letter: `C` and `S` for what a client
//! and a server say, `c` and `s` for the end of their streams.
#![allow(missing_docs)]

use poptap::pop3::Peer;

use play::Step;

#[path = "../../tests/it/support/play.rs"]
pub mod play;
#[path = "../../tests/it/support/rules.rs"]
pub mod rules;
#[path = "../../tests/it/support/witness.rs"]
pub mod witness;

/// What a file says.
pub struct Conversation {
    pub setting: u8,
    pub cuts: u8,
    pub steps: Vec<Step>,
}

impl Conversation {
    /// `None` where there is nothing to play.
    pub fn of(octets: &[u8]) -> Option<Self> {
        let [setting, cuts, parts @ ..] = octets else { return None };
        let steps = parts.split(|&octet| octet == 0xFF).filter_map(step).collect();
        Some(Self { setting: *setting, cuts: *cuts, steps })
    }
}

fn step(part: &[u8]) -> Option<Step> {
    let (&letter, octets) = part.split_first()?;
    match letter {
        b'C' => Some(Step::Says(Peer::Client, octets.to_vec())),
        b'S' => Some(Step::Says(Peer::Upstream, octets.to_vec())),
        b'c' => Some(Step::Ends(Peer::Client)),
        b's' => Some(Step::Ends(Peer::Upstream)),
        _ => None,
    }
}
