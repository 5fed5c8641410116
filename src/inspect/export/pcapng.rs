//! Packets in a capture file. The only place that knows of `pcap-file` and `etherparse`.

use std::{borrow::Cow, io, io::Write, net::SocketAddr, time::Duration};

use etherparse::{PacketBuilder, TcpOptionElement};
use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock as _, PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

/// Octets of data in a packet at most: as on an Ethernet, with some room.
pub(super) const SEGMENT: usize = 1400;

/// What both ends are willing to take. It never fills: data is acknowledged after two packets.
const WINDOW: u16 = 65_535;

/// Hops that a packet may have behind it: as if captured where it was sent.
const HOPS: u8 = 64;

/// Nanoseconds: the unit that `pcap-file` counts in, whatever it says in the file. Times have microseconds.
const NANOSECONDS: InterfaceDescriptionOption<'_> = InterfaceDescriptionOption::IfTsResol(9);

/// What a TCP segment says besides its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// The number of its first octet.
    pub(super) sequence: u32,
    /// The next octet that its sender waits for.
    pub(super) acknowledges: Option<u32>,
    /// It opens a connection.
    pub(super) syn: bool,
    /// Its sender sends no more.
    pub(super) fin: bool,
    /// Its sender has given up the connection.
    pub(super) reset: bool,
    /// At most [`SEGMENT`] octets.
    pub(super) data: &'a [u8],
}

/// A capture that is being written.
pub(super) struct Capture<W: Write> {
    file: PcapNgWriter<W>,
}

impl<W: Write> Capture<W> {
    /// Begins it: one interface, and its packets begin with the IP header.
    pub(super) fn new(out: W) -> io::Result<Self> {
        let software = format!("poptap {}", env!("CARGO_PKG_VERSION"));
        let comment = "made from a transcript: the conversation is what was recorded, the packets are not";
        let options = vec![SectionHeaderOption::Comment(comment.into()), SectionHeaderOption::UserApplication(software.into())];
        let section = SectionHeaderBlock { options, ..SectionHeaderBlock::default() };
        let mut file = PcapNgWriter::with_section_header(out, section).map_err(unpacked)?;
        let interface = InterfaceDescriptionBlock { linktype: DataLink::RAW, snaplen: 0, options: vec![NANOSECONDS] };
        file.write_block(&interface.into_block()).map_err(unpacked)?;
        Ok(Self { file })
    }

    /// Adds a packet, so long after 1970 began. Where the ends are not of the same kind, both become IPv6.
    pub(super) fn packet(&mut self, time: Duration, from: SocketAddr, to: SocketAddr, segment: &Segment<'_>) -> io::Result<()> {
        let data = packet(from, to, segment)?;
        let original_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let block =
            EnhancedPacketBlock { interface_id: 0, timestamp: time, original_len, data: Cow::Owned(data), options: Vec::new() };
        self.file.write_block(&block.into_block()).map_err(unpacked)?;
        Ok(())
    }
}

fn packet(from: SocketAddr, to: SocketAddr, segment: &Segment<'_>) -> io::Result<Vec<u8>> {
    let builder = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), HOPS),
        _ => PacketBuilder::ipv6(v6(from), v6(to), HOPS),
    };
    let mut tcp = builder.tcp(from.port(), to.port(), segment.sequence, WINDOW);
    if let Some(next) = segment.acknowledges {
        tcp = tcp.ack(next);
    }
    if segment.syn {
        let largest = TcpOptionElement::MaximumSegmentSize(1460);
        tcp = tcp.syn().options(&[largest]).map_err(io::Error::other)?;
    }
    if segment.fin {
        tcp = tcp.fin();
    }
    if segment.reset {
        tcp = tcp.rst();
    }
    if !segment.data.is_empty() {
        tcp = tcp.psh();
    }
    let mut packet = Vec::with_capacity(tcp.size(segment.data.len()));
    tcp.write_to_vec(&mut packet, segment.data).map_err(io::Error::other)?;
    Ok(packet)
}

fn v6(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(address) => address.ip().octets(),
    }
}

fn unpacked(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    /// A packet as it was read again.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(in crate::inspect::export) struct Seen {
        pub(in crate::inspect::export) time: Duration,
        pub(in crate::inspect::export) ports: [u16; 2],
        /// 4 or 6.
        pub(in crate::inspect::export) version: u8,
        pub(in crate::inspect::export) sequence: u32,
        pub(in crate::inspect::export) acknowledges: u32,
        /// `S`, `A`, `F`, `R`, in this order.
        pub(in crate::inspect::export) flags: String,
        pub(in crate::inspect::export) data: Vec<u8>,
    }

    /// The packets of a capture; their checksums are right.
    pub(in crate::inspect::export) fn read(capture: &[u8]) -> Vec<Seen> {
        let mut reader = PcapNgReader::new(capture).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            let Block::EnhancedPacket(packet) = block.unwrap().into_owned() else { continue };
            // Read again, they count in the unit of the file.
            let headers = PacketHeaders::from_ip_slice(&packet.data).unwrap();
            let Some(TransportHeader::Tcp(tcp)) = headers.transport else { panic!("no TCP") };
            let data = headers.payload.slice().to_vec();
            let (version, checksum) = match headers.net.unwrap() {
                NetHeaders::Ipv4(ip, _) => (4, tcp.calc_checksum_ipv4(&ip, &data).unwrap()),
                NetHeaders::Ipv6(ip, _) => (6, tcp.calc_checksum_ipv6(&ip, &data).unwrap()),
                NetHeaders::Arp(_) => panic!("no IP"),
            };
            assert_eq!(tcp.checksum, checksum);
            let flags = [(tcp.syn, 'S'), (tcp.ack, 'A'), (tcp.fin, 'F'), (tcp.rst, 'R')];
            seen.push(Seen {
                time: packet.timestamp,
                ports: [tcp.source_port, tcp.destination_port],
                version,
                sequence: tcp.sequence_number,
                acknowledges: tcp.acknowledgment_number,
                flags: flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect(),
                data,
            });
        }
        seen
    }

    #[test]
    fn packets_of_both_families_keep_all_that_they_say() {
        let [four, six] = ["192.0.2.1:50000", "[2001:db8::1]:1110"].map(|text| text.parse().unwrap());
        let mut out = Vec::new();
        let mut capture = Capture::new(&mut out).unwrap();
        let time = Duration::from_micros(1_795_415_400_123_456);
        let segment = Segment { sequence: 7, acknowledges: Some(u32::MAX), data: b"+OK\r\n", ..Segment::default() };
        capture.packet(time, four, four, &segment).unwrap();
        capture.packet(time, six, four, &Segment { syn: true, sequence: 9, ..Segment::default() }).unwrap();
        let seen = read(&out);
        let first = Seen {
            time,
            ports: [50_000, 50_000],
            version: 4,
            sequence: 7,
            acknowledges: u32::MAX,
            flags: "A".to_owned(),
            data: b"+OK\r\n".to_vec(),
        };
        let opening = Seen {
            ports: [1110, 50_000],
            version: 6,
            sequence: 9,
            acknowledges: 0,
            flags: "S".to_owned(),
            data: Vec::new(),
            ..first.clone()
        };
        assert_eq!(seen, [first, opening]);
    }
}
