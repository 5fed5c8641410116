//! Playing a conversation through the tap, in any chunking.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use poptap::{
    config::Anomalies,
    pop3::Peer,
    record::{Store, schema},
    tap::{Filter, Pool, Tap},
};

use super::witness::Witness;

/// What one side says next, or that it has ended its stream.
#[derive(Clone)]
pub enum Step {
    Says(Peer, Vec<u8>),
    Ends(Peer),
    /// TLS stands on the client's hop.
    Secured,
}

impl fmt::Debug for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Says(peer, octets) => write!(formatter, "{peer:?} says {}", octets.escape_ascii()),
            Self::Ends(peer) => write!(formatter, "{peer:?} ends"),
            Self::Secured => write!(formatter, "TLS stands"),
        }
    }
}

/// What came of a conversation.
#[derive(Debug, PartialEq, Eq)]
pub struct Played {
    /// Octets that reached the server.
    pub to_upstream: Vec<u8>,
    /// Octets that reached the client.
    pub to_client: Vec<u8>,
    /// Whether the client's and the server's end were passed on.
    pub ended: (bool, bool),
    pub events: Vec<String>,
    pub accounted: (u64, u64),
    pub received: (u64, u64),
    /// What a recorder found, where one was told.
    pub anomalies: BTreeMap<String, u64>,
}

/// The sizes of the next piece read and written; both at least 1.
pub type Cuts<'a> = &'a mut dyn FnMut() -> usize;

/// A tap with its witness, and what it let through.
pub struct Player<F> {
    pub tap: Tap<Witness, F>,
    /// What decides once TLS stands on the client's hop.
    pub inside_tls: Option<F>,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
    /// Who ended its stream first.
    left: Option<Peer>,
}

impl<F: Filter> Player<F> {
    /// What has reached the server.
    pub fn to_upstream(&self) -> &[u8] {
        &self.to_upstream
    }

    /// What has reached the client.
    pub fn to_client(&self) -> &[u8] {
        &self.to_client
    }

    pub fn new(filter: F, outstanding: usize) -> Self {
        let tap = Tap::new(Witness::default(), filter, outstanding, Arc::new(Pool::new(2)));
        Self { tap, inside_tls: None, to_upstream: Vec::new(), to_client: Vec::new(), left: None }
    }

    /// Tells a recorder everything, from the beginning; to it every reply takes no time at all, and is slow from `slow_reply` on.
    pub fn record(&mut self, slow_reply: Duration) {
        let store = Store::open(None, None).unwrap();
        let mut recorder = store.recorder(schema::Opened::default());
        recorder.watch(&Anomalies { slow_reply, ..Anomalies::default() });
        self.tap.observer().recorder = Some(recorder);
    }

    /// How the session ended, for the record.
    fn closed(&self) -> schema::Closed {
        let by = match self.left {
            _ if self.tap.violation().is_some() => "poptap",
            Some(Peer::Upstream) => "upstream",
            _ => "client",
        };
        let reason = match self.tap.violation() {
            Some(_) => "violation",
            None if self.tap.has_quit() => "quit",
            None => "eof",
        };
        schema::Closed { by: by.to_owned(), reason: reason.to_owned(), ..schema::Closed::default() }
    }

    pub fn step(&mut self, step: &Step, cuts: Cuts<'_>) {
        match step {
            Step::Says(peer, octets) => self.say(*peer, octets, cuts),
            Step::Ends(peer) => {
                self.left.get_or_insert(*peer);
                self.tap.finish(*peer);
            }
            Step::Secured => {
                assert!(self.tap.is_handing_over() && self.tap.output(Peer::Client).is_empty(), "nothing is on its way in clear");
                self.to_client.extend(b"(TLS)\n");
                self.tap.secured(self.inside_tls.take().expect("a filter for the inside"));
            }
        }
        self.settle(cuts);
    }

    /// Feeds what one side says; returns when all of it was read, or nothing more is wanted.
    fn say(&mut self, peer: Peer, mut octets: &[u8], cuts: Cuts<'_>) {
        while !octets.is_empty() && self.tap.wants_read(peer) {
            let space = self.tap.space(peer);
            assert!(!space.is_empty() && space.len() <= poptap::tap::LARGE, "the buffer's limit");
            let count = cuts().min(space.len()).min(octets.len());
            space[..count].copy_from_slice(&octets[..count]);
            self.tap.filled(peer, count);
            octets = &octets[count..];
            self.settle(cuts);
        }
    }

    /// Advances and writes until nothing moves.
    fn settle(&mut self, cuts: Cuts<'_>) {
        loop {
            let stalled = self.tap.violation().is_none() && self.tap.observer().stall.get() > 0;
            let mut moved = self.tap.advance() || stalled;
            for from in [Peer::Client, Peer::Upstream] {
                let count = cuts().min(self.tap.output(from).len());
                let written = self.tap.output(from)[..count].to_vec();
                moved |= count > 0;
                match from {
                    Peer::Client => self.to_upstream.extend(written),
                    Peer::Upstream => self.to_client.extend(written),
                }
                self.tap.wrote(from, count);
            }
            if !moved {
                break;
            }
        }
        self.tap.rest();
    }

    /// What has reached the server and the client so far.
    pub fn reached(&self) -> (&[u8], &[u8]) {
        (&self.to_upstream, &self.to_client)
    }

    pub fn end(mut self) -> Played {
        let (to_upstream, to_client) = (std::mem::take(&mut self.to_upstream), std::mem::take(&mut self.to_client));
        let ended = (self.tap.is_finished(Peer::Client), self.tap.is_finished(Peer::Upstream));
        let received = (self.tap.totals(Peer::Client).0, self.tap.totals(Peer::Upstream).0);
        let closed = self.closed();
        let mut witness = self.tap.into_observer();
        let anomalies = witness.recorder.take().map(|recorder| recorder.close(closed).anomalies).unwrap_or_default();
        Played { to_upstream, to_client, ended, events: witness.seen(), accounted: witness.accounted, received, anomalies }
    }
}

/// Plays a whole conversation.
pub fn play<F: Filter>(filter: F, steps: &[Step], cuts: Cuts<'_>) -> Played {
    play_both(filter, None, steps, cuts)
}

/// Plays a whole conversation in which TLS may begin.
pub fn play_both<F: Filter>(filter: F, inside_tls: Option<F>, steps: &[Step], cuts: Cuts<'_>) -> Played {
    played(Player::new(filter, 1000), inside_tls, steps, cuts)
}

/// The same before a recorder.
pub fn play_recorded<F: Filter>(filter: F, inside_tls: Option<F>, steps: &[Step], slow: Duration, cuts: Cuts<'_>) -> Played {
    let mut player = Player::new(filter, 1000);
    player.record(slow);
    played(player, inside_tls, steps, cuts)
}

fn played<F: Filter>(mut player: Player<F>, inside_tls: Option<F>, steps: &[Step], cuts: Cuts<'_>) -> Played {
    player.inside_tls = inside_tls;
    for step in steps {
        player.step(step, cuts);
    }
    player.end()
}

/// Cuts everything into pieces of one size.
pub fn pieces_of(size: usize) -> impl FnMut() -> usize {
    move || size
}

/// Cuts at random, the same way for the same seed (xorshift).
pub fn random_pieces(seed: u64, most: usize) -> impl FnMut() -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        1 + (state >> 33) as usize % most
    }
}

/// All that one side says.
pub fn said(steps: &[Step], by: Peer) -> Vec<u8> {
    let octets = |step: &Step| match step {
        Step::Says(peer, octets) if *peer == by => octets.clone(),
        _ => Vec::new(),
    };
    steps.iter().flat_map(octets).collect()
}

/// Joins what one side says in a row, and lets only one side speak until it is done: so that cuts cannot change who spoke first.
pub fn apart(steps: Vec<Step>) -> Vec<Step> {
    let mut joined: Vec<Step> = Vec::new();
    for step in steps {
        match (joined.last_mut(), &step) {
            (Some(Step::Says(last, said)), Step::Says(peer, octets)) if last == peer => said.extend(octets),
            _ => joined.push(step),
        }
    }
    joined.into_iter().flat_map(lines_of_the_server).collect()
}

/// A line of the server's may set octets free that were held: each is a step of its own, so that what they do comes before
/// its next line.
fn lines_of_the_server(step: Step) -> Vec<Step> {
    match step {
        Step::Says(Peer::Upstream, octets) => {
            octets.split_inclusive(|&octet| octet == b'\n').map(|line| Step::Says(Peer::Upstream, line.to_vec())).collect()
        }
        other => vec![other],
    }
}

/// The events of each direction, in order.
pub fn sides(played: &Played) -> (Vec<&String>, Vec<&String>) {
    let of_client = |event: &&String| event.starts_with("C ") || event.starts_with("P Answer") || event.contains("Client");
    played.events.iter().partition(of_client)
}

/// Whether the session was closed for what somebody said.
pub fn was_closed(played: &Played) -> bool {
    played.events.iter().any(|event| event.starts_with("P violation"))
}
