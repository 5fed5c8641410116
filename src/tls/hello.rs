//! What two peers say in clear when they begin TLS with each other: for connections that are carried unread.
//!
//! This reads, and decides nothing. rustls reads hellos, too, but refuses those of old clients, which are to be carried all the
//! same, and tells nobody which versions were offered.

use rustls::{CipherSuite, ProtocolVersion};

use crate::escape::escape;

/// What a client offers (RFC 8446 §4.1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that it asks for (SNI, RFC 6066 §3), escaped.
    pub sni: Option<String>,
    /// The versions, such as `TLSv1.3`, in its order; made-up ones (RFC 8701) are left out.
    pub versions: Vec<String>,
    /// The protocols (ALPN, RFC 7301), escaped.
    pub alpn: Vec<String>,
}

/// What a server has chosen (RFC 8446 §4.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version, such as `TLSv1.3`.
    pub version: String,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// How far a hello has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun<T> {
    /// All of it is there.
    Whole(T),
    /// There is more to come.
    Part,
    /// TLS it may be, but no hello that can be read.
    Unreadable,
    /// It is not TLS.
    Other,
}

impl ClientHello {
    /// Reads what a client said first.
    #[must_use]
    pub fn read(octets: &[u8]) -> Begun<Self> {
        message(octets, CLIENT_HELLO, Self::parse)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = Octets(body);
        let legacy = rest.number(2)?;
        rest.take(32)?;
        rest.vector(1)?;
        rest.vector(2)?;
        rest.vector(1)?;
        let mut hello = Self::default();
        for (kind, value) in extensions(rest)? {
            match kind {
                SERVER_NAME => hello.sni = server_name(value),
                ALPN => hello.alpn = protocols(value).unwrap_or_default(),
                SUPPORTED_VERSIONS => hello.versions = versions(value).unwrap_or_default(),
                _ => {}
            }
        }
        if hello.versions.is_empty() {
            hello.versions.push(version_name(legacy));
        }
        Some(hello)
    }
}

impl ServerHello {
    /// Reads what a server said first.
    #[must_use]
    pub fn read(octets: &[u8]) -> Begun<Self> {
        message(octets, SERVER_HELLO, Self::parse)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = Octets(body);
        let mut version = rest.number(2)?;
        rest.take(32)?;
        rest.vector(1)?;
        let cipher = rest.number(2)?;
        rest.take(1)?;
        if let Some((_, chosen)) = extensions(rest)?.into_iter().find(|(kind, _)| *kind == SUPPORTED_VERSIONS) {
            version = Octets(chosen).number(2)?;
        }
        Some(Self { version: version_name(version), cipher: cipher_name(cipher) })
    }
}

/// Puts the pieces of a handshake message together, which records may cut anywhere (RFC 8446 §5.1), and reads it.
fn message<T>(octets: &[u8], kind: u8, parse: impl Fn(&[u8]) -> Option<T>) -> Begun<T> {
    match octets {
        // Nothing is certain yet.
        [] | [0x15 | 0x80..=0xff] | [0x80..=0xff, _] => return Begun::Part,
        // A hello of SSL 2, in which clients once offered later versions (RFC 5246, appendix E.2); or an alert.
        [0x80..=0xff, _, 1, ..] | [0x15, 3, ..] => return Begun::Unreadable,
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
        _ => return Begun::Other,
    }
    let (mut records, mut handshake, mut interrupted) = (Octets(octets), Vec::new(), false);
    while let Some(header) = records.take(3) {
        // A server goes on with other records behind its hello.
        if header.first() != Some(&HANDSHAKE) {
            interrupted = true;
            break;
        }
        // The last record may be cut.
        let Some(length) = records.number(2) else { break };
        let piece = records.take(usize::from(length)).unwrap_or_else(|| std::mem::take(&mut records.0));
        handshake.extend_from_slice(piece);
    }
    let mut rest = Octets(&handshake);
    match rest.take(1) {
        None if !interrupted => return Begun::Part,
        None => return Begun::Unreadable,
        Some(found) if found != [kind] => return Begun::Unreadable,
        Some(_) => {}
    }
    let Some(body) = rest.vector(3) else { return if interrupted { Begun::Unreadable } else { Begun::Part } };
    parse(body).map_or(Begun::Unreadable, Begun::Whole)
}

/// Absent in old hellos.
fn extensions(mut rest: Octets<'_>) -> Option<Vec<(u16, &[u8])>> {
    if rest.0.is_empty() {
        return Some(Vec::new());
    }
    let (mut list, mut found) = (Octets(rest.vector(2)?), Vec::new());
    while !list.0.is_empty() {
        found.push((list.number(2)?, list.vector(2)?));
    }
    Some(found)
}

fn server_name(value: &[u8]) -> Option<String> {
    let mut list = Octets(Octets(value).vector(2)?);
    // The only kind of name that there is.
    if list.take(1)? != [0] {
        return None;
    }
    list.vector(2).map(shown)
}

fn protocols(value: &[u8]) -> Option<Vec<String>> {
    let (mut list, mut found) = (Octets(Octets(value).vector(2)?), Vec::new());
    while !list.0.is_empty() && found.len() < MOST {
        found.push(shown(list.vector(1)?));
    }
    Some(found)
}

fn versions(value: &[u8]) -> Option<Vec<String>> {
    let (mut list, mut found) = (Octets(Octets(value).vector(1)?), Vec::new());
    while !list.0.is_empty() && found.len() < MOST {
        let version = list.number(2)?;
        if version & 0x0f0f != 0x0a0a {
            found.push(version_name(version));
        }
    }
    Some(found)
}

fn version_name(version: u16) -> String {
    match ProtocolVersion::from(version) {
        ProtocolVersion::SSLv3 => "SSLv3".to_owned(),
        ProtocolVersion::TLSv1_0 => "TLSv1.0".to_owned(),
        ProtocolVersion::TLSv1_1 => "TLSv1.1".to_owned(),
        ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
        _ => format!("0x{version:04x}"),
    }
}

fn cipher_name(cipher: u16) -> String {
    CipherSuite::from(cipher).as_str().map_or_else(|| format!("0x{cipher:04x}"), str::to_owned)
}

fn shown(octets: &[u8]) -> String {
    escape(&octets[..octets.len().min(LONGEST)])
}

/// What is left to be read. Whatever is longer than that is `None`, and nothing is read then.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Of at most two octets.
    fn number(&mut self, octets: usize) -> Option<u16> {
        Some(self.take(octets)?.iter().fold(0, |number, octet| number << 8 | u16::from(*octet)))
    }

    /// Octets behind their own number, which has so many octets itself.
    fn vector(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (number, rest) = self.0.split_at_checked(octets)?;
        let length = number.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
        let (vector, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(vector)
    }
}

const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Names of a list that are kept.
const MOST: usize = 16;
/// Octets of a name that are kept: as long as a name may be (RFC 1035 §2.3.4).
const LONGEST: usize = 255;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;
    use crate::tls::{Authority, Validity, provider, server_config};

    fn client(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConnection {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = vec![b"pop3".to_vec()];
        ClientConnection::new(Arc::new(config), "pop.example.net".try_into().unwrap()).unwrap()
    }

    fn hellos(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Vec<u8>, Vec<u8>) {
        let mut client = client(versions);
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        let issued = Authority::self_signed(&["pop.example.net"], Validity::days(1)).unwrap();
        let mut server = ServerConnection::new(server_config(issued.chain, issued.key).unwrap()).unwrap();
        server.read_tls(&mut &said[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut answered = Vec::new();
        server.write_tls(&mut answered).unwrap();
        (said, answered)
    }

    #[test]
    fn what_is_offered_and_what_is_chosen() {
        for (versions, offered, chosen) in [
            (&[&rustls::version::TLS13, &rustls::version::TLS12][..], &["TLSv1.3", "TLSv1.2"][..], "TLSv1.3"),
            (&[&rustls::version::TLS12], &["TLSv1.2"], "TLSv1.2"),
        ] {
            let (said, answered) = hellos(versions);
            let Begun::Whole(hello) = ClientHello::read(&said) else { panic!("{offered:?}") };
            assert_eq!((hello.sni.as_deref(), &hello.alpn[..]), (Some("pop.example.net"), &["pop3".to_owned()][..]));
            assert_eq!(hello.versions, offered);
            let Begun::Whole(answer) = ServerHello::read(&answered) else { panic!("{chosen}") };
            assert_eq!(answer.version, chosen);
            assert!(answer.cipher.starts_with("TLS"), "{answer:?}");
        }
    }

    #[test]
    fn no_beginning_is_taken_for_the_whole() {
        let (said, answered) = hellos(&[&rustls::version::TLS13]);
        for end in 0..said.len() {
            assert_eq!(ClientHello::read(&said[..end]), Begun::Part, "{end}");
        }
        let hello = 9 + usize::from(answered[7]) * 256 + usize::from(answered[8]);
        for end in 0..hello {
            assert_eq!(ServerHello::read(&answered[..end]), Begun::Part, "{end}");
        }
    }

    /// Whatever octet is changed, nothing worse comes of it than another reading.
    #[test]
    fn a_spoilt_hello_is_read_as_far_as_it_goes() {
        let (said, answered) = hellos(&[&rustls::version::TLS13]);
        for at in 0..said.len().max(answered.len()) {
            for octet in [0, 1, 0x7f, 0xff] {
                let spoil =
                    |octets: &[u8]| octets.iter().enumerate().map(|(n, old)| if n == at { octet } else { *old }).collect();
                let (said, answered): (Vec<u8>, Vec<u8>) = (spoil(&said), spoil(&answered));
                let _ = (ClientHello::read(&said), ServerHello::read(&answered));
            }
        }
    }

    #[test]
    fn records_may_cut_it() {
        let (said, _) = hellos(&[&rustls::version::TLS13]);
        let cut: Vec<u8> = said[5..]
            .chunks(7)
            .flat_map(|piece| [&[0x16, 3, 1, 0, u8::try_from(piece.len()).unwrap()], piece].concat())
            .collect();
        assert_eq!(ClientHello::read(&cut), ClientHello::read(&said));
    }

    #[test]
    fn what_is_not_tls_is_told() {
        for (octets, begun) in [
            (&b""[..], Begun::Part),
            (b"\x16", Begun::Part),
            (b"USER tim\r\n", Begun::Other),
            (b"\x16no", Begun::Other),
            (b"GET / HTTP/1.1\r\n", Begun::Other),
            (b"\x80\x2e\x01\x03\x01", Begun::Unreadable),
            (b"\x16\x03\x01\x00\x01\x0b", Begun::Unreadable),
        ] {
            assert_eq!(ClientHello::read(octets), begun, "{octets:?}");
        }
    }
}
