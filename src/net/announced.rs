//! What a proxy says ahead of a connection that it hands on: the PROXY protocol's header, version 1 or 2
//! (`proxy-protocol.txt` of its makers, §2).

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxyHeader, SslInfo, Tlv};
use tokio::net::TcpStream;

use crate::{escape::escape, record::schema};

/// Octets of a version 1 header, its line end included (§2.1).
const LIMIT_V1: usize = 107;
/// Octets of a version 2 header with all that is attached to it. Proxies send some hundreds; the format would allow 64 KiB.
const LIMIT_V2: usize = 4096;
/// Octets of a version 2 header up to its length, which is the last thing in them.
const FIXED_V2: usize = 16;
/// How a version 1 header begins.
const WORD: &[u8] = b"PROXY ";
/// How a version 2 header begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets that are looked at in one go.
const CHUNK: usize = 256;
/// Octets of a proxy's text that are kept.
const TEXT_LIMIT: usize = 255;

/// A header that was read and understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Announcement {
    /// The client's address, and the one that it connected to. `None` where the proxy speaks for itself (`LOCAL`), or does not
    /// say for whom (`UNKNOWN`, or a family that is not the Internet's): the connection's own addresses hold then.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    /// What the transcript says of it.
    pub(crate) said: schema::Announced,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderFault {
    #[error("the connection failed before its header was there: {0}")]
    Io(#[from] io::Error),
    #[error("it left before its header was there, behind {octets} octets of it")]
    Left { octets: usize },
    #[error("its first octets are not a header")]
    Missing,
    #[error("its header is malformed")]
    Malformed,
    #[error("its header is longer than {limit} octets")]
    TooLong { limit: usize },
    #[error("its header announces datagrams")]
    Datagrams,
}

/// Reads a header, and nothing behind it: the next octet that is read from `tcp` is the client's first.
///
/// # Errors
///
/// [`HeaderFault`]; the connection is of no use then, since some of its octets may have been taken.
pub(crate) async fn read_header(tcp: &TcpStream) -> Result<Announcement, HeaderFault> {
    let mut header = Vec::new();
    let mut chunk = [0; CHUNK];
    loop {
        let need = need(&header)?;
        if need == Need::Nothing {
            return parse(&header);
        }
        // Looked at before it is taken, since a line's end may stand anywhere in it.
        let count = tcp.peek(&mut chunk).await?;
        if count == 0 {
            return Err(HeaderFault::Left { octets: header.len() });
        }
        let ours = need.of(&chunk[..count], LIMIT_V1.saturating_sub(header.len()));
        match tcp.try_read(&mut chunk[..ours]) {
            Ok(taken) => header.extend_from_slice(&chunk[..taken]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is missing of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// So many octets, or more.
    Octets(usize),
    /// All up to the end of a line.
    Line,
    /// It is complete.
    Nothing,
}

impl Need {
    /// How many of these octets belong to the header; of a line no more than `line`.
    fn of(self, octets: &[u8], line: usize) -> usize {
        match self {
            Self::Octets(count) => count.min(octets.len()),
            Self::Line => octets.iter().position(|&octet| octet == b'\n').map_or(octets.len(), |end| end + 1).min(line),
            Self::Nothing => 0,
        }
    }
}

fn need(header: &[u8]) -> Result<Need, HeaderFault> {
    match header.first() {
        None => Ok(Need::Octets(1)),
        Some(b'P') if begins(header, WORD) => match header.len() {
            _ if header.ends_with(b"\n") => Ok(Need::Nothing),
            LIMIT_V1.. => Err(HeaderFault::TooLong { limit: LIMIT_V1 }),
            _ => Ok(Need::Line),
        },
        Some(b'\r') if begins(header, SIGNATURE) => {
            let Some(&[high, low]) = header.get(FIXED_V2 - 2..FIXED_V2) else {
                return Ok(Need::Octets(FIXED_V2 - header.len()));
            };
            let whole = FIXED_V2 + usize::from(u16::from_be_bytes([high, low]));
            match whole.saturating_sub(header.len()) {
                _ if whole > LIMIT_V2 => Err(HeaderFault::TooLong { limit: LIMIT_V2 }),
                0 => Ok(Need::Nothing),
                left => Ok(Need::Octets(left)),
            }
        }
        Some(_) => Err(HeaderFault::Missing),
    }
}

/// Whether these octets are the beginning of `word`, or begin with it.
fn begins(octets: &[u8], word: &[u8]) -> bool {
    octets.iter().zip(word).all(|(octet, expected)| octet == expected)
}

/// Of exactly one header.
fn parse(octets: &[u8]) -> Result<Announcement, HeaderFault> {
    let (header, length) = ProxyHeader::parse(octets, ParseConfig::default()).map_err(|_malformed| HeaderFault::Malformed)?;
    if length != octets.len() {
        return Err(HeaderFault::Malformed);
    }
    let addresses = match header.proxied_address() {
        Some(found) if found.protocol == Protocol::Datagram => return Err(HeaderFault::Datagrams),
        found => found.map(|found| (canonical(found.source), canonical(found.destination))),
    };
    let version = if octets.starts_with(SIGNATURE) { "v2" } else { "v1" };
    let mut said = schema::Announced {
        header: version.to_owned(),
        anonymous: addresses.is_none(),
        destination: addresses.map(|(_, destination)| destination.to_string()),
        ..schema::Announced::default()
    };
    for tlv in header.tlvs() {
        match tlv.map_err(|_malformed| HeaderFault::Malformed)? {
            Tlv::Ssl(ssl) => tls(&ssl, &mut said)?,
            Tlv::Authority(name) => said.sni = text(name.as_bytes()),
            Tlv::Alpn(protocol) => said.alpn = text(&protocol),
            _ => {}
        }
    }
    Ok(Announcement { addresses, said })
}

/// TLS between the client and the proxy, where there is any.
fn tls(ssl: &SslInfo<'_>, said: &mut schema::Announced) -> Result<(), HeaderFault> {
    for tlv in ssl.tlvs() {
        match tlv.map_err(|_malformed| HeaderFault::Malformed)? {
            Tlv::SslVersion(version) if ssl.client_ssl() => said.tls_version = text(version.as_bytes()),
            Tlv::SslCipher(cipher) if ssl.client_ssl() => said.tls_cipher = text(cipher.as_bytes()),
            // Of a certificate that the proxy did not verify it is nobody's name.
            Tlv::SslCn(name) if ssl.client_ssl() && ssl.verify() == 0 => said.tls_name = text(name.as_bytes()),
            _ => {}
        }
    }
    Ok(())
}

fn text(octets: &[u8]) -> Option<String> {
    let kept = &octets[..octets.len().min(TEXT_LIMIT)];
    Some(escape(kept)).filter(|text| !text.is_empty())
}

/// IPv4 addresses that are written as IPv6 are IPv4 addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
