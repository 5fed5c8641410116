//! What the server is told of a client ahead of everything else: the PROXY protocol, version 1 or 2
//! (`proxy-protocol.txt` of its makers, §2.1 and §2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};

use super::Origin;
use crate::{config::ProxyProtocol, escape::unescape, record::schema};

/// The longest text of a peer's that is passed on: as long as a DNS name may be, and more than any common name (64).
const TEXT_LIMIT: usize = 255;

/// The header for a connection: at most 1 KiB; `None` where the server is not told.
///
/// A client's connection is announced with its address and the one that it connected to; by version 2 also with the name that
/// it asked for and with its TLS, exactly where there is any. One of poptap's own is announced as such (`UNKNOWN`, `LOCAL`).
pub(super) fn header(version: ProxyProtocol, origin: &Origin) -> Option<Vec<u8>> {
    match version {
        ProxyProtocol::Off => None,
        ProxyProtocol::V1 => Some(text_header(origin).into_bytes()),
        ProxyProtocol::V2 => Some(binary_header(origin)),
    }
}

/// One line of at most 107 octets.
fn text_header(origin: &Origin) -> String {
    if origin.is_own() {
        return "PROXY UNKNOWN\r\n".to_owned();
    }
    let (source, destination) = one_family(origin.client, origin.listener);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", plain(source.ip()), plain(destination.ip()), source.port(), destination.port())
}

/// As the specification wants it: an IPv6 address in hexadecimal throughout, one that maps an IPv4 address too.
fn plain(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        address => address.to_string(),
    }
}

fn binary_header(origin: &Origin) -> Vec<u8> {
    let header = if origin.is_own() {
        ProxyHeader::with_local()
    } else {
        let (source, destination) = one_family(origin.client, origin.listener);
        ProxyHeader::with_tlvs(Some(ProxiedAddress::stream(source, destination)), origin.tls.iter().flat_map(tls))
    };
    let mut octets = Vec::with_capacity(128);
    // It fails for addresses of two families, and from 64 KiB on; neither can be here.
    let _ = header.encode_v2(&mut octets);
    octets
}

/// Both addresses of one family: IPv4 where both are, also when written as IPv6; else IPv6 by mapping.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = match (from, to) {
        // "All interfaces" is no address; it has no family that could matter.
        (IpAddr::V4(_), to) if to.is_unspecified() => (from, Ipv4Addr::UNSPECIFIED.into()),
        (IpAddr::V6(_), to) if to.is_unspecified() => (from, Ipv6Addr::UNSPECIFIED.into()),
        (IpAddr::V4(from), IpAddr::V6(_)) => (from.to_ipv6_mapped().into(), to),
        (IpAddr::V6(_), IpAddr::V4(to)) => (from, to.to_ipv6_mapped().into()),
        same => same,
    };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}

fn tls(tls: &schema::Tls) -> impl Iterator<Item = Tlv<'static>> {
    let authority = tls.sni.as_deref().and_then(text).map(|name| Tlv::Authority(name.into()));
    authority.into_iter().chain([Tlv::Ssl(ssl(tls))])
}

/// A certificate was presented on this connection exactly when its subject is known, and then it was verified.
fn ssl(tls: &schema::Tls) -> SslInfo<'static> {
    let presented = tls.subject.is_some();
    let mut info = SslInfo::new(true, presented, presented, u32::from(!presented));
    info.append_tlv(Tlv::SslVersion(tls.version.clone().into()));
    if let Some(name) = tls.subject.as_deref().and_then(common_name) {
        info.append_tlv(Tlv::SslCn(name.into()));
    }
    info.append_tlv(Tlv::SslCipher(cipher(&tls.cipher).into()));
    info
}

/// The name of a cipher suite as IANA lists it.
fn cipher(name: &str) -> String {
    name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |suite| format!("TLS_{suite}"))
}

/// The common name, where it is all there is in the subject. In a longer one, what stands there as text cannot be told from
/// another attribute that contains `, CN=`, and servers take this for a user's name.
fn common_name(subject: &str) -> Option<String> {
    subject.strip_prefix("CN=").filter(|name| !name.contains(['=', '+', ','])).and_then(text)
}

/// What was escaped, as it was.
fn text(escaped: &str) -> Option<String> {
    let text = String::from_utf8(unescape(escaped)?).ok()?;
    Some(text).filter(|text| !text.is_empty() && text.len() <= TEXT_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, b'Q', b'U', b'I', b'T', 0x0a];

    fn header(origin: &Origin) -> Vec<u8> {
        super::header(ProxyProtocol::V2, origin).unwrap()
    }

    fn origin(client: &str, listener: &str, tls: Option<schema::Tls>) -> Origin {
        Origin { client: client.parse().unwrap(), listener: listener.parse().unwrap(), tls }
    }

    fn hop(subject: Option<&str>, sni: Option<&str>) -> schema::Tls {
        schema::Tls {
            hop: schema::Hop::Client,
            mode: "implicit".to_owned(),
            version: "TLSv1.3".to_owned(),
            cipher: "TLS13_AES_128_GCM_SHA256".to_owned(),
            sni: sni.map(str::to_owned),
            subject: subject.map(str::to_owned),
            ..schema::Tls::default()
        }
    }

    fn after_signature(header: &[u8]) -> &[u8] {
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        assert_eq!(header.len(), 16 + length, "the length covers the rest");
        header.strip_prefix(&SIGNATURE).unwrap()
    }

    #[test]
    fn a_connection_of_our_own_is_local() {
        assert_eq!(after_signature(&header(&Origin::own())), [0x20, 0x00, 0, 0]);
    }

    #[test]
    fn two_ipv4_addresses() {
        let octets = header(&origin("192.0.2.1:4660", "198.51.100.2:110", None));
        let expected = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 110];
        assert_eq!(after_signature(&octets), expected);
        // A listener on all interfaces sees them as IPv6 addresses.
        assert_eq!(header(&origin("[::ffff:192.0.2.1]:4660", "[::ffff:198.51.100.2]:110", None)), octets);
    }

    #[test]
    fn two_ipv6_addresses() {
        let octets = header(&origin("[2001:db8::1]:1", "[2001:db8::2]:995", None));
        let mut expected = vec![0x21, 0x21, 0, 36, 0x20, 0x01, 0x0d, 0xb8];
        expected.extend([0; 11]);
        expected.extend([1, 0x20, 0x01, 0x0d, 0xb8]);
        expected.extend([0; 11]);
        expected.extend([2, 0, 1, 0x03, 0xe3]);
        assert_eq!(after_signature(&octets), expected);
    }

    #[test]
    fn two_families_are_made_one() {
        let pairs = [
            ("192.0.2.1:1", "[2001:db8::2]:2", "[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"),
            ("[2001:db8::1]:1", "192.0.2.2:2", "[2001:db8::1]:1", "[::ffff:192.0.2.2]:2"),
            ("192.0.2.1:1", "[::]:2", "192.0.2.1:1", "0.0.0.0:2"),
            ("[2001:db8::1]:1", "0.0.0.0:2", "[2001:db8::1]:1", "[::]:2"),
        ];
        for (client, listener, source, destination) in pairs {
            let made = one_family(client.parse().unwrap(), listener.parse().unwrap());
            assert_eq!(made, (source.parse().unwrap(), destination.parse().unwrap()), "{client} {listener}");
            assert!(header(&origin(client, listener, None)).len() > 16);
        }
    }

    #[test]
    fn tls_is_told_of_with_version_cipher_and_name() {
        let octets = header(&origin("192.0.2.1:1", "192.0.2.2:2", Some(hop(None, Some("pop.example.net")))));
        let mut expected = vec![0x02, 0, 15];
        expected.extend(b"pop.example.net");
        // The client's hop is TLS, and nothing was verified.
        expected.extend([0x20, 0, 40, 0x01, 0, 0, 0, 1, 0x21, 0, 7]);
        expected.extend(b"TLSv1.3");
        expected.extend([0x23, 0, 22]);
        expected.extend(b"TLS_AES_128_GCM_SHA256");
        let found = &after_signature(&octets)[16..];
        assert_eq!(found, expected, "{}", found.escape_ascii());
    }

    #[test]
    fn a_certificate_is_told_of_with_its_common_name() {
        let octets = header(&origin("192.0.2.1:1", "192.0.2.2:2", Some(hop(Some("CN=joe"), None))));
        let mut expected = vec![0x20, 0, 46, 0x07, 0, 0, 0, 0, 0x21, 0, 7];
        expected.extend(b"TLSv1.3");
        expected.extend([0x22, 0, 3]);
        expected.extend(b"joe");
        expected.extend([0x23, 0, 22]);
        expected.extend(b"TLS_AES_128_GCM_SHA256");
        let found = &after_signature(&octets)[16..];
        assert_eq!(found, expected, "{}", found.escape_ascii());
    }

    #[test]
    fn a_name_that_may_be_forged_is_left_out() {
        for subject in ["O=x, CN=admin", "CN=joe, O=x", "CN=a + CN=b", "CN=", "O=joe", &format!("CN={}", "x".repeat(256))] {
            assert_eq!(common_name(subject), None, "{subject}");
        }
        assert_eq!(common_name(r"CN=back\\slash").as_deref(), Some(r"back\slash"));
        let octets = header(&origin("192.0.2.1:1", "192.0.2.2:2", Some(hop(Some("O=x, CN=admin"), None))));
        assert!(!octets.windows(5).any(|window| window == b"admin"));
        assert_eq!(octets[16 + 12 + 3], 0x07, "that there was one is told all the same");
    }

    #[test]
    fn version_1_is_a_line_of_addresses() {
        let tls = Some(hop(Some("CN=joe"), Some("pop.example.net")));
        for (client, listener, line) in [
            ("192.0.2.1:4660", "198.51.100.2:110", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 110\r\n"),
            ("[::ffff:192.0.2.1]:4660", "[::ffff:198.51.100.2]:110", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 110\r\n"),
            ("[2001:db8::1]:1", "[2001:db8::2]:995", "PROXY TCP6 2001:db8::1 2001:db8::2 1 995\r\n"),
            ("192.0.2.1:1", "[2001:db8::2]:2", "PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 2\r\n"),
            ("192.0.2.1:1", "[::]:2", "PROXY TCP4 192.0.2.1 0.0.0.0 1 2\r\n"),
        ] {
            for tls in [None, tls.clone()] {
                let said = super::header(ProxyProtocol::V1, &origin(client, listener, tls)).unwrap();
                assert_eq!(String::from_utf8(said).unwrap(), line);
            }
        }
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        assert!(super::header(ProxyProtocol::V1, &origin(longest, longest, None)).unwrap().len() <= 107);
        assert_eq!(super::header(ProxyProtocol::V1, &Origin::own()).unwrap(), b"PROXY UNKNOWN\r\n");
        assert_eq!(super::header(ProxyProtocol::Off, &Origin::own()), None);
    }
}
