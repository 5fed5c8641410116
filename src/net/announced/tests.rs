use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// The client, and where it connected to.
type Named = Option<(SocketAddr, SocketAddr)>;

const TO: &str = "198.51.100.2:110";

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// From 192.0.2.1:4660 to [`TO`].
fn addresses() -> Vec<u8> {
    vec![192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 110]
}

/// With everything that a proxy may say of TLS.
fn with_tls(verified: u8) -> Vec<u8> {
    let subs = [tlv(0x21, b"TLSv1.3"), tlv(0x22, b"jo\x1be"), tlv(0x23, b"TLS_AES_128_GCM_SHA256")].concat();
    let ssl = [&[7, 0, 0, 0, verified][..], &subs].concat();
    v2(0x21, 0x11, &[addresses(), tlv(1, b"pop3"), tlv(2, b"pop.example.net"), tlv(4, &[0; 300]), tlv(0x20, &ssl)].concat())
}

/// What is read when the header comes in pieces of `size` octets, with `behind` following it; and what is then still there.
async fn read(header: &[u8], behind: &[u8], size: usize) -> (Result<Announcement, HeaderFault>, Vec<u8>) {
    let (mut client, mut server) = pair().await;
    let all = [header, behind].concat();
    let sending = tokio::spawn(async move {
        for piece in all.chunks(size) {
            // Whoever does not like what came first hangs up.
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    let found = read_header(&server).await;
    sending.await.unwrap();
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    (found, rest)
}

#[tokio::test]
async fn a_header_is_read_in_any_pieces_and_nothing_behind_it() {
    let client: SocketAddr = "192.0.2.1:4660".parse().unwrap();
    let six = ("[2001:db8::1]:5".parse().unwrap(), "[2001:db8::2]:995".parse().unwrap());
    let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    let mut unknown = b"PROXY UNKNOWN ".to_vec();
    unknown.resize(105, b'x');
    unknown.extend(b"\r\n");
    let six_octets: Vec<u8> = ["2001:db8::1", "2001:db8::2"]
        .iter()
        .flat_map(|address| address.parse::<std::net::Ipv6Addr>().unwrap().octets())
        .chain([0, 5, 0x03, 0xe3])
        .collect();
    let cases: Vec<(Vec<u8>, Named)> = vec![
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 110\r\n".to_vec(), Some((client, TO.parse().unwrap()))),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 5 995\r\n".to_vec(), Some(six)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4660 110\r\n".to_vec(), Some((client, TO.parse().unwrap()))),
        (
            longest.clone().into_bytes(),
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
            )),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (unknown, None),
        (v2(0x20, 0, &[]), None),
        (v2(0x20, 0x11, &addresses()), None),
        (v2(0x21, 0, &[]), None),
        (v2(0x21, 0x31, &[0; 216]), None),
        (v2(0x21, 0x11, &addresses()), Some((client, TO.parse().unwrap()))),
        (v2(0x21, 0x21, &six_octets), Some(six)),
        (with_tls(0), Some((client, TO.parse().unwrap()))),
        (v2(0x21, 0x11, &[addresses(), tlv(4, &vec![0; LIMIT_V2 - 16 - 12 - 3])].concat()), Some((client, TO.parse().unwrap()))),
    ];
    for (header, expected) in cases {
        for size in [1, 2, 7, 16, 255, 10_000] {
            let (found, rest) = read(&header, b"\x16\x03\x01PROXY \r\n\r\nUSER tim\r\n", size).await;
            let shown = header.escape_ascii();
            let found = found.unwrap_or_else(|fault| panic!("{shown} in pieces of {size}: {fault}"));
            assert_eq!(found.addresses, expected, "{shown}");
            assert_eq!(found.said.anonymous, expected.is_none(), "{shown}");
            assert_eq!(
                rest.escape_ascii().to_string(),
                b"\x16\x03\x01PROXY \r\n\r\nUSER tim\r\n".escape_ascii().to_string(),
                "{shown}"
            );
        }
    }
}

#[test]
fn what_a_proxy_says_of_tls_is_kept_and_escaped() {
    let said = parse(&with_tls(0)).unwrap().said;
    let expected = schema::Announced {
        header: "v2".to_owned(),
        anonymous: false,
        destination: Some(TO.to_owned()),
        tls_version: Some("TLSv1.3".to_owned()),
        tls_cipher: Some("TLS_AES_128_GCM_SHA256".to_owned()),
        tls_name: Some(r"jo\x1be".to_owned()),
        sni: Some("pop.example.net".to_owned()),
        alpn: Some("pop3".to_owned()),
    };
    assert_eq!(said, expected);
    let unverified = parse(&with_tls(1)).unwrap().said;
    assert_eq!(unverified, schema::Announced { tls_name: None, ..expected });
}

#[tokio::test]
async fn what_is_no_header_is_refused_with_a_reason() {
    let too_long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"USER tim\r\n".to_vec(), "not a header"),
        (b"\x16\x03\x01\x02\0".to_vec(), "not a header"),
        (b"PASS PROXY\r\n".to_vec(), "not a header"),
        (b"PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "not a header"),
        (b"proxy unknown\r\n".to_vec(), "not a header"),
        (b"\r\n\r\n\0\r\nQUIT\r\n".to_vec(), "not a header"),
        (b"PROXY\r\n".to_vec(), "not a header"),
        (b"PROXY \r\n".to_vec(), "malformed"),
        (b"PROXY UNKNOWN\n".to_vec(), "malformed"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n".to_vec(), "malformed"),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), "malformed"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n".to_vec(), "malformed"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "malformed"),
        (too_long, "longer than 107 octets"),
        (v2(0x11, 0x11, &addresses()), "malformed"),
        (v2(0x22, 0x11, &addresses()), "malformed"),
        (v2(0x21, 0x13, &addresses()), "malformed"),
        (v2(0x21, 0x11, &addresses()[..11]), "malformed"),
        (v2(0x21, 0x21, &addresses()), "malformed"),
        (v2(0x21, 0x12, &addresses()), "datagrams"),
        (v2(0x21, 0x11, &[addresses(), vec![1, 0, 9, b'x']].concat()), "malformed"),
        (v2(0x21, 0x11, &[addresses(), tlv(0x20, &[1, 0])].concat()), "malformed"),
        (v2(0x21, 0x11, &[addresses(), tlv(2, b"\xff\xfe")].concat()), "malformed"),
        (v2(0x21, 0x11, &vec![0; LIMIT_V2 - 15]), "longer than 4096 octets"),
        (b"".to_vec(), "behind 0 octets"),
        (b"PROXY TCP4 ".to_vec(), "behind 11 octets"),
        (v2(0x21, 0x11, &addresses())[..27].to_vec(), "behind 27 octets"),
    ];
    for (octets, said) in cases {
        for size in [1, 7, 10_000] {
            let (found, _) = read(&octets, b"", size).await;
            let refused = found.unwrap_err().to_string();
            assert!(refused.contains(said), "{} in pieces of {size}: {refused}", octets.escape_ascii());
        }
    }
}

proptest! {
    /// Whatever comes, a decision is made, and never on more than a header may have.
    #[test]
    fn no_octets_are_taken_beyond_the_limit(version in any::<bool>(), rest in proptest::collection::vec(any::<u8>(), 0..600)) {
        let octets = [if version { WORD } else { SIGNATURE }, &rest].concat();
        for end in 1..=octets.len() {
            match need(&octets[..end]) {
                Ok(Need::Nothing) => {
                    let _ = parse(&octets[..end]);
                    break;
                }
                Ok(Need::Octets(count)) => prop_assert!(end + count <= LIMIT_V2),
                Ok(Need::Line) => prop_assert!(end < LIMIT_V1),
                Err(_) => break,
            }
        }
    }
}
