//! Two peers' octets as one TCP connection: numbered, cut into segments, acknowledged.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use super::pcapng::{Capture, SEGMENT, Segment};
use crate::pop3::Peer;

/// Segments after which the other end acknowledges.
const UNACKNOWLEDGED: u32 = 2;

/// Octets that may be missing in one place at most: where numbers run round, none can tell more.
const MISSING: u64 = 1 << 30;

/// One connection at a time between a client and a listener. Written to, it sends what the peer says that [`Tcp::turn`] named
/// last. Memory: one segment.
pub(super) struct Tcp<W: Write> {
    capture: Capture<W>,
    ends: [SocketAddr; 2],
    connections: u32,
    time: Duration,
    speaker: Peer,
    /// The number of the next octet of each.
    next: [u32; 2],
    /// What each has acknowledged.
    acknowledged: [u32; 2],
    segments: u32,
    data: Vec<u8>,
}

impl<W: Write> Tcp<W> {
    /// A capture with no connection in it yet.
    pub(super) fn new(out: W, client: SocketAddr, listener: SocketAddr) -> io::Result<Self> {
        let [client, listener] = [client, listener].map(canonical);
        Ok(Self {
            capture: Capture::new(out)?,
            ends: of_one_family(client, listener),
            connections: 0,
            time: Duration::ZERO,
            speaker: Peer::Upstream,
            next: [0; 2],
            acknowledged: [0; 2],
            segments: 0,
            data: Vec::with_capacity(SEGMENT),
        })
    }

    /// What happens from now on happens then; time never goes back.
    pub(super) fn at(&mut self, time: Duration) {
        self.time = self.time.max(time);
    }

    /// The client connects: SYN, SYN and ACK, ACK.
    pub(super) fn connect(&mut self) -> io::Result<()> {
        // Those of two connections are far apart, or the second would be taken for a repetition.
        self.connections += 1;
        self.next = [0x1000_0000, 0x2000_0000].map(|first: u32| first.wrapping_add(self.connections << 24));
        self.segments = 0;
        for peer in [Peer::Client, Peer::Upstream] {
            let answer = peer == Peer::Upstream;
            let acknowledges = answer.then_some(self.next[Peer::Client as usize]);
            self.send(peer, &Segment { sequence: self.next[peer as usize], acknowledges, syn: true, ..Segment::default() })?;
            self.next[peer as usize] = self.next[peer as usize].wrapping_add(1);
        }
        self.acknowledge(Peer::Client)
    }

    /// What is written from now on is what this peer says.
    pub(super) fn turn(&mut self, speaker: Peer) {
        self.speaker = speaker;
    }

    /// The peer has said it all for now: what is left is sent and acknowledged.
    pub(super) fn over(&mut self) -> io::Result<()> {
        self.segment()?;
        self.acknowledge(self.speaker.other())
    }

    /// Octets of a peer's were sent that nobody saw: as if the capture had lost them.
    pub(super) fn miss(&mut self, peer: Peer, octets: u64) {
        let octets = u32::try_from(octets.min(MISSING)).unwrap_or_default();
        self.next[peer as usize] = self.next[peer as usize].wrapping_add(octets);
    }

    /// Both end their streams, this peer first.
    pub(super) fn close(&mut self, first: Peer) -> io::Result<()> {
        for peer in [first, first.other()] {
            let (sequence, acknowledges) = (self.next[peer as usize], Some(self.next[peer.other() as usize]));
            self.send(peer, &Segment { sequence, acknowledges, fin: true, ..Segment::default() })?;
            self.next[peer as usize] = sequence.wrapping_add(1);
        }
        self.acknowledge(first)
    }

    /// This peer gives the connection up.
    pub(super) fn reset(&mut self, peer: Peer) -> io::Result<()> {
        let (sequence, acknowledges) = (self.next[peer as usize], Some(self.next[peer.other() as usize]));
        self.send(peer, &Segment { sequence, acknowledges, reset: true, ..Segment::default() })
    }

    /// Sends what has gathered, and has it acknowledged every now and then.
    fn segment(&mut self) -> io::Result<()> {
        if self.data.is_empty() {
            return Ok(());
        }
        let peer = self.speaker;
        let data = std::mem::take(&mut self.data);
        let (sequence, acknowledges) = (self.next[peer as usize], Some(self.next[peer.other() as usize]));
        self.send(peer, &Segment { sequence, acknowledges, data: &data, ..Segment::default() })?;
        self.next[peer as usize] = sequence.wrapping_add(u32::try_from(data.len()).unwrap_or_default());
        self.data = data;
        self.data.clear();
        self.segments += 1;
        if self.segments >= UNACKNOWLEDGED { self.acknowledge(peer.other()) } else { Ok(()) }
    }

    /// This peer says how far it has read, unless it has said so before.
    fn acknowledge(&mut self, peer: Peer) -> io::Result<()> {
        self.segments = 0;
        let read = self.next[peer.other() as usize];
        if self.acknowledged[peer as usize] == read {
            return Ok(());
        }
        self.send(peer, &Segment { sequence: self.next[peer as usize], acknowledges: Some(read), ..Segment::default() })
    }

    fn send(&mut self, peer: Peer, segment: &Segment<'_>) -> io::Result<()> {
        if let Some(read) = segment.acknowledges {
            self.acknowledged[peer as usize] = read;
        }
        let (from, to) = (self.ends[peer as usize], self.ends[peer.other() as usize]);
        self.capture.packet(self.time, from, to, segment)
    }
}

impl<W: Write> Write for Tcp<W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let count = octets.len().min(SEGMENT - self.data.len());
        self.data.extend_from_slice(&octets[..count]);
        if self.data.len() == SEGMENT {
            self.segment()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A listener on all addresses of both families is `[::]`; to a client with IPv4 it is `0.0.0.0`.
fn of_one_family(client: SocketAddr, listener: SocketAddr) -> [SocketAddr; 2] {
    if client.is_ipv4() && listener.is_ipv6() && listener.ip().is_unspecified() {
        return [client, SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), listener.port())];
    }
    [client, listener]
}

#[cfg(test)]
mod tests {
    use super::{
        super::pcapng::tests::{Seen, read},
        *,
    };

    fn captured(client: &str, listener: &str, talk: impl Fn(&mut Tcp<&mut Vec<u8>>) -> io::Result<()>) -> Vec<Seen> {
        let mut out = Vec::new();
        let mut tcp = Tcp::new(&mut out, client.parse().unwrap(), listener.parse().unwrap()).unwrap();
        talk(&mut tcp).unwrap();
        read(&out)
    }

    /// Flags, and the numbers counted from the first of each end, and octets of data.
    fn told(seen: &[Seen]) -> Vec<String> {
        let told = |seen: &Seen| {
            let (mine, other) = if seen.ports[0] == 50_000 { (0x1100_0000, 0x2100_0000) } else { (0x2100_0000, 0x1100_0000) };
            let who = if seen.ports[0] == 50_000 { "C" } else { "S" };
            let acknowledges = seen.acknowledges.checked_sub(other).map_or("-".to_owned(), |number| number.to_string());
            format!("{who} {} {} {acknowledges} {}", seen.flags, seen.sequence - mine, seen.data.len())
        };
        seen.iter().map(told).collect()
    }

    #[test]
    fn a_connection_from_its_beginning_to_its_end() {
        let seen = captured("192.0.2.7:50000", "[::ffff:192.0.2.1]:1110", |tcp| {
            tcp.at(Duration::from_micros(5));
            tcp.connect()?;
            tcp.at(Duration::from_micros(3));
            tcp.turn(Peer::Upstream);
            tcp.write_all(&[b'x'; 2 * SEGMENT + 1])?;
            tcp.over()?;
            tcp.turn(Peer::Client);
            tcp.write_all(b"QUIT\r\n")?;
            tcp.over()?;
            tcp.close(Peer::Upstream)
        });
        let expected = [
            "C S 0 - 0",
            "S SA 0 1 0",
            "C A 1 1 0",
            "S A 1 1 1400",
            "S A 1401 1 1400",
            "C A 1 2801 0",
            "S A 2801 1 1",
            "C A 1 2802 0",
            "C A 1 2802 6",
            "S A 2802 7 0",
            "S AF 2802 7 0",
            "C AF 7 2803 0",
            "S A 2803 8 0",
        ];
        assert_eq!(told(&seen), expected);
        assert!(seen.iter().all(|seen| seen.version == 4 && seen.time == Duration::from_micros(5)), "{seen:?}");
    }

    #[test]
    fn what_is_missing_is_jumped_over_and_a_reset_ends_it() {
        let seen = captured("[2001:db8::7]:50000", "[::]:1110", |tcp| {
            tcp.connect()?;
            tcp.miss(Peer::Client, 10);
            tcp.reset(Peer::Client)
        });
        assert_eq!(told(&seen)[3..], ["C AR 11 1 0"]);
        assert!(seen.iter().all(|seen| seen.version == 6));
    }

    #[test]
    fn a_listener_on_all_addresses_has_the_family_of_the_client() {
        let seen = captured("192.0.2.7:50000", "[::]:1110", |tcp| {
            tcp.at(Duration::from_micros(1));
            tcp.connect()
        });
        assert!(seen.iter().all(|seen| seen.version == 4) && seen.len() == 3, "{seen:?}");
    }
}
