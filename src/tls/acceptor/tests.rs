#![allow(clippy::large_futures, reason = "both ends of a handshake in one test")]

use std::{fs, future::Future, time::Duration};

use aws_lc_rs::{encoding::AsDer, rsa, signature};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::net::TcpListener;
use tokio_rustls::{TlsConnector, client};
use x509_parser::der_parser::parse_der;

use super::*;
use crate::{
    config::ClientCert,
    tls::{Authority, Certificate, Validity, pem, provider},
};

type Stream<Side> = Result<Side, io::Error>;

/// An authority, and a folder for what it issues.
struct House {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl House {
    fn new() -> Self {
        Self::of("Test CA")
    }

    fn of(name: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new(name).unwrap() }
    }

    fn write(&self, name: &str, cert: &str, key: &str) -> KeyPair {
        let files = KeyPair { cert: self.folder.path().join(format!("{name}.pem")), key: self.folder.path().join(name) };
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    fn chain(&self, names: &[&str], validity: Validity) -> KeyPair {
        let issued = self.authority.issue(names, validity).unwrap();
        self.write(names[0], &issued.chain_pem, &issued.key_pem())
    }

    fn ca(&self) -> KeyPair {
        self.write("ca", &self.authority.pem(), &self.authority.key_pem())
    }

    /// For `pop.example.net`.
    fn settings(&self) -> ServerTls {
        ServerTls { chains: vec![self.chain(&["pop.example.net"], Validity::days(1))], ..nothing() }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor::new(&self.settings(), None).unwrap()
    }

    /// A client that trusts the authority.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        client_builder(&self.authority, versions).with_no_client_auth()
    }
}

fn nothing() -> ServerTls {
    ServerTls {
        chains: Vec::new(),
        mint: None,
        min_version: TlsVersion::Tls12,
        client_ca: None,
        client_cert: ClientCert::Required,
    }
}

fn client_builder(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap().with_root_certificates(roots)
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// Two ends of a connection on loopback: the client's, the server's.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// A handshake with a client that asks for `name`; it goes away when it has failed.
async fn meet(
    acceptor: &Acceptor,
    client: impl Into<Arc<ClientConfig>>,
    name: &'static str,
) -> (Stream<client::TlsStream<TcpStream>>, Result<TlsStream<TcpStream>, AcceptError>) {
    let (near, far) = connection().await;
    let connector = TlsConnector::from(client.into());
    let connect = connector.connect(ServerName::try_from(name).unwrap(), near);
    in_time(async { tokio::join!(connect, acceptor.handshake(far)) }).await
}

/// Which name the client was shown.
async fn shown(acceptor: &Acceptor, client: &Arc<ClientConfig>, name: &'static str) -> Vec<String> {
    let (client, server) = meet(acceptor, client.clone(), name).await;
    server.unwrap();
    Certificate::parse(&client.unwrap().get_ref().1.peer_certificates().unwrap()[0]).unwrap().names
}

/// What comes of a client that says these octets, piece by piece, and then nothing more; and what it is answered.
async fn say(acceptor: &Acceptor, pieces: &[&[u8]]) -> (AcceptError, Vec<u8>) {
    let (mut near, far) = connection().await;
    near.set_nodelay(true).unwrap();
    let client = async {
        for piece in pieces {
            near.write_all(piece).await.unwrap();
        }
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    // The connection that comes back in the error has to go before the client sees its end.
    let server = async {
        match acceptor.handshake(far).await.map(drop).unwrap_err() {
            AcceptError::PlainText { first, http, mut tcp } => {
                tcp.shutdown().await.unwrap();
                AcceptError::PlainText { first, http, tcp }
            }
            error => error,
        }
    };
    let (answer, error) = in_time(async { tokio::join!(client, server) }).await;
    (error, answer)
}

/// A `ClientHello` as clients of `version` send it, with ciphers that need no key exchange, and these extensions.
fn hello(version: u16, extensions: &[u8]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x00, 0x2f, 0x00, 0x35, 1, 0]);
    if !extensions.is_empty() {
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
    }
    let mut record = vec![0x16, 3, 1];
    record.extend(u16::try_from(body.len() + 4).unwrap().to_be_bytes());
    record.extend([1, 0, 0, u8::try_from(body.len()).unwrap()]);
    record.extend(body);
    record
}

/// One alert and nothing else (RFC 8446 §6), behind the record's header.
fn is_alert(answer: &[u8]) -> bool {
    answer.starts_with(b"\x15\x03") && answer.len() == 7
}

#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let house = House::new();
    let names: [&[&str]; 3] = [&["pop.example.net", "127.0.0.1"], &["other.example"], &["*.example.org"]];
    let chains = names.iter().map(|names| house.chain(names, Validity::days(1))).collect();
    let acceptor = Acceptor::new(&ServerTls { chains, ..nothing() }, None).unwrap();
    let client = Arc::new(house.client(BOTH));
    for (asked, expected) in [
        ("pop.example.net", "pop.example.net"),
        ("other.example", "other.example"),
        ("a.example.org", "*.example.org"),
        // An address is no SNI (RFC 6066 §3).
        ("127.0.0.1", "pop.example.net"),
    ] {
        assert_eq!(shown(&acceptor, &client, asked).await[0], expected, "{asked}");
    }
    let mut silent = house.client(BOTH);
    silent.enable_sni = false;
    assert_eq!(shown(&acceptor, &Arc::new(silent), "pop.example.net").await[0], "pop.example.net");
    let (client, server) = meet(&acceptor, client, "unknown.example").await;
    assert!(client.unwrap_err().to_string().contains("not valid for name"), "the first chain was shown");
    assert!(matches!(server, Err(AcceptError::CertificateDoubted(_))));
}

#[tokio::test]
async fn names_without_a_chain_get_a_minted_certificate() {
    let house = House::new();
    let minting = ServerTls { mint: Some(house.ca()), ..nothing() };
    let acceptor = Acceptor::new(&minting, None).unwrap();
    let client = Arc::new(house.client(BOTH));
    assert_eq!(shown(&acceptor, &client, "any.example").await, ["any.example"]);
    assert_eq!(shown(&acceptor, &client, "127.0.0.1").await, ["127.0.0.1"]);
    let both = ServerTls { chains: vec![house.chain(&["127.0.0.1"], Validity::days(1))], ..minting };
    let acceptor = Acceptor::new(&both, None).unwrap();
    assert_eq!(shown(&acceptor, &client, "any.example").await, ["any.example"]);
    let ends: Vec<_> = acceptor.expiries().into_iter().map(|expiry| expiry.what).collect();
    assert!(ends[0].ends_with("127.0.0.1.pem`") && ends[1].starts_with("the authority in `"), "{ends:?}");
}

#[tokio::test]
async fn every_format_of_private_keys_is_read() {
    let house = House::new();
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let ec = rcgen::KeyPair::generate().unwrap();
    // PKCS #8 wraps PKCS #1 in an octet string (RFC 5958 §2).
    let pkcs1 = parse_der(rsa.serialized_der()).unwrap().1.as_sequence().unwrap()[2].as_slice().unwrap().to_vec();
    rsa::KeyPair::from_der(&pkcs1).unwrap();
    let key = signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, ec.serialized_der()).unwrap();
    let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
    for (pair, label, der) in [
        (&rsa, "PRIVATE KEY", rsa.serialized_der()),
        (&rsa, "RSA PRIVATE KEY", &pkcs1),
        (&ec, "PRIVATE KEY", ec.serialized_der()),
        (&ec, "EC PRIVATE KEY", sec1.as_ref()),
    ] {
        let chain = house.authority.issue_for(pair, &["pop.example.net"], Validity::days(1)).unwrap();
        let cert: String = chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
        let one_file = format!("{cert}{}", *pem::encode(label, der));
        let mut files = house.write("formats", &one_file, "");
        files.key.clone_from(&files.cert);
        let acceptor = Acceptor::new(&ServerTls { chains: vec![files], ..nothing() }, None).unwrap();
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let (client, server) = meet(&acceptor, house.client(versions), "pop.example.net").await;
            server.unwrap_or_else(|error| panic!("{label}: {error}"));
            client.unwrap();
        }
    }
}

#[test]
fn settings_that_cannot_work_name_their_files() {
    let house = House::new();
    let refusal = |settings: &ServerTls| Acceptor::new(settings, None).unwrap_err();
    assert!(matches!(refusal(&nothing()), AcceptorError::Nothing));
    let (good, other) = (house.settings(), house.chain(&["other.example"], Validity::days(1)));
    let mixed = KeyPair { key: other.key.clone(), ..good.chains[0].clone() };
    let error = refusal(&ServerTls { chains: vec![good.chains[0].clone(), mixed], ..nothing() }).to_string();
    assert!(error.contains("other.example` is not that of the certificate in `") && error.contains("net.pem`"), "{error}");
    let error = refusal(&ServerTls { mint: Some(other), ..nothing() });
    assert!(matches!(error, AcceptorError::Authority(AuthorityError::NoAuthority { .. })), "{error}");
    assert!(error.hint().contains("poptap certs ca"));
    let error = refusal(&ServerTls { client_ca: Some("/nonexistent/clients.pem".into()), ..good.clone() });
    assert!(error.to_string().starts_with("cannot read `/nonexistent/clients.pem`"), "{error}");
    let rubbish = house.write("rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "");
    let error = refusal(&ServerTls { client_ca: Some(rubbish.cert), ..good });
    assert!(error.to_string().starts_with("cannot verify clients by the certificates in `"), "{error}");
}

#[test]
fn an_expired_certificate_is_told_and_no_error() {
    let house = House::new();
    let over = Validity { from: Validity::days(0).from - time::Duration::days(9), ..Validity::days(0) };
    let over = Validity { to: over.from + time::Duration::days(1), ..over };
    let files = house.chain(&["pop.example.net"], over);
    let acceptor = Acceptor::new(&ServerTls { chains: vec![files.clone()], ..nothing() }, None).unwrap();
    let expected = Expiry {
        what: format!("the certificate in `{}`", files.cert.display()),
        file: files.cert.clone(),
        not_after: over.to.replace_nanosecond(0).unwrap(),
    };
    assert_eq!(acceptor.expiries(), [expected]);
}

#[tokio::test]
async fn the_floor_holds() {
    let house = House::new();
    let acceptor = Acceptor::new(&ServerTls { min_version: TlsVersion::Tls13, ..house.settings() }, None).unwrap();
    let (client, server) = meet(&acceptor, house.client(&[&TLS12]), "pop.example.net").await;
    let error = server.unwrap_err();
    assert!(matches!(error, AcceptError::BelowFloor), "{error}");
    assert!(error.hint().unwrap().contains("min_tls"));
    assert!(client.unwrap_err().to_string().contains("ProtocolVersion"), "its alert arrived");
    let (_client, server) = meet(&acceptor, house.client(BOTH), "pop.example.net").await;
    assert_eq!(server.unwrap().get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let (_client, server) = meet(&house.acceptor(), house.client(&[&TLS12]), "pop.example.net").await;
    assert_eq!(server.unwrap().get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let (error, answer) = say(&acceptor, &[&hello(0x0303, &[])]).await;
    assert!(matches!(error, AcceptError::BelowFloor | AcceptError::NothingInCommon(_)), "{error}");
    assert_eq!(answer[0], 0x15, "{answer:x?}");
}

#[tokio::test]
async fn clients_from_another_age_are_told_from_others() {
    let acceptor = House::new().acceptor();
    // SSL 3, TLS 1.0, TLS 1.1.
    for version in 0x0300..=0x0302 {
        let (error, answer) = say(&acceptor, &[&hello(version, &[])]).await;
        assert!(matches!(error, AcceptError::TooOld), "{version:x}: {error}");
        assert!(is_alert(&answer), "{answer:x?}");
        assert!(error.hint().unwrap().contains("plain listener"));
        assert_eq!((error.to_string().as_str(), error.reason()), ("it offers no TLS version from 1.2 on", "client-tls"));
    }
    // supported_versions (RFC 8446 §4.2.1) with 1.1 and 1.0.
    let (error, answer) = say(&acceptor, &[&hello(0x0302, &[0, 43, 0, 5, 4, 3, 2, 3, 1])]).await;
    assert!(matches!(error, AcceptError::TooOld), "{error}");
    assert!(is_alert(&answer), "{answer:x?}");
    // The hello of SSL 2 for TLS 1.0: one cipher of 3 octets, a challenge of 16.
    let mut ancient = vec![0x80, 28, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f];
    ancient.extend([7; 16]);
    let (error, answer) = say(&acceptor, &[&ancient]).await;
    assert!(matches!(error, AcceptError::TooOld), "{error}");
    assert_eq!(answer[0], 0x15, "{answer:x?}");
}

#[tokio::test]
async fn nothing_in_common_is_named() {
    let acceptor = House::new().acceptor();
    // supported_groups with x25519; signature_algorithms with ecdsa_secp256r1_sha256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 4, 3];
    let (error, answer) = say(&acceptor, &[&hello(0x0303, &extensions)]).await;
    assert_eq!(error.to_string(), "it offers no cipher that poptap accepts", "{error:?}");
    assert_eq!(answer[5..], [2, 40], "fatal, handshake_failure");
    assert!(error.hint().unwrap().contains("update the client"));
}

#[tokio::test]
async fn plain_text_comes_back_unread_and_its_secrets_stay_out_of_words() {
    let acceptor = House::new().acceptor();
    for (said, expected, is_http) in [
        (&b"USER joe\r\nPASS hunter2\r\n"[..], "USER", false),
        (b"PASS hunter2\r\n", "PASS", false),
        (b"quit", "QUIT", false),
        (b"hunter2\r\n", "", false),
        (b"GET /?token=hunter2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET", true),
        (b"PRI * HTTP/2.0\r\n\r\n", "PRI", true),
        (b"\r\n", "", false),
        (b"\xff\xfb\x01hunter2", "", false),
        (b"\x80\xfb\x01\x02", "", false),
    ] {
        let (error, answer) = say(&acceptor, &[said]).await;
        let words = format!("{error} {:?}", error.hint());
        let AcceptError::PlainText { first, http, mut tcp } = error else { panic!("{error}") };
        assert_eq!((first.as_str(), http), (expected, is_http), "{said:?}");
        assert!(!words.contains("hunter2") && !words.contains("joe"), "{words}");
        assert!(answer.is_empty(), "{answer:x?}");
        let mut unread = Vec::new();
        in_time(tcp.read_to_end(&mut unread)).await.unwrap();
        assert_eq!(unread, said);
    }
}

#[tokio::test]
async fn ends_in_the_middle_are_told() {
    let acceptor = House::new().acceptor();
    let whole = hello(0x0303, &[]);
    for length in [0, 1, 4, 5, 6, 20, whole.len() - 1] {
        let (error, answer) = say(&acceptor, &[&whole[..length]]).await;
        assert!(matches!(error, AcceptError::Closed), "{length}: {error}");
        assert!(answer.is_empty(), "{answer:x?}");
    }
    let (near, far) = connection().await;
    socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
    let (error, ()) = in_time(async { tokio::join!(acceptor.handshake(far), async { drop(near) }) }).await;
    assert!(matches!(error.unwrap_err(), AcceptError::Io(_)));
}

#[tokio::test]
async fn what_is_no_handshake_ends_with_an_alert() {
    let acceptor = House::new().acceptor();
    for rubbish in [&b"\x16hello there"[..], b"\x16\x03\x01\x00\x05hello", b"\x17\x03\x03\x00\x01a", b"\x16\x03\x01\xff\xffa"] {
        let (error, answer) = say(&acceptor, &[rubbish]).await;
        assert!(matches!(error, AcceptError::Protocol(_)), "{rubbish:x?}: {error}");
        // rustls answers a handshake message of no known type with silence.
        let alert: &[u8] = if rubbish.ends_with(b"\x05hello") { b"" } else { b"\x15\x03" };
        assert!(answer.starts_with(alert) && answer.len() == if alert.is_empty() { 0 } else { 7 }, "{answer:x?}");
        assert_eq!((error.reason(), error.hint()), ("client-tls", None));
    }
    let (error, _) = say(&acceptor, &[b"\x15\x03\x01\x00\x02\x02\x50"]).await;
    assert_eq!(error.to_string(), "it refused the handshake: it has a fault of its own (internal_error)");
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_quoted() {
    // By another name: a key that differs under the same one is a signature that does not fit.
    let (house, stranger) = (House::new(), House::of("Other CA"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let (_, server) = meet(&house.acceptor(), stranger.client(versions), "pop.example.net").await;
        let error = server.unwrap_err();
        assert_eq!(error.to_string(), "it refused our certificate: it does not know the authority (unknown_ca)");
        assert!(error.hint().unwrap().contains("trust the authority"));
    }
}

#[tokio::test]
async fn octets_and_records_may_come_one_by_one() {
    let house = House::new();
    let acceptor = house.acceptor();
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let name = ServerName::try_from("pop.example.net").unwrap();
        let connection_state = ClientConnection::new(Arc::new(house.client(versions)), name).unwrap();
        let (near, far) = connection().await;
        let (client, server) = in_time(async { tokio::join!(drip(connection_state, near), acceptor.handshake(far)) }).await;
        assert!(!client.is_handshaking());
        server.unwrap();
    }
}

/// Does a client's handshake in single octets; its hello in records of one octet each.
async fn drip(mut connection: ClientConnection, mut tcp: TcpStream) -> ClientConnection {
    tcp.set_nodelay(true).unwrap();
    let mut first = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut first).unwrap();
    }
    let mut flight: Vec<u8> = first[5..].iter().flat_map(|&octet| [0x16, 3, 1, 0, 1, octet]).collect();
    loop {
        for octet in &flight {
            tcp.write_all(&[*octet]).await.unwrap();
        }
        flight.clear();
        if !connection.is_handshaking() {
            return connection;
        }
        let mut octet = [0];
        tcp.read_exact(&mut octet).await.unwrap();
        connection.read_tls(&mut &octet[..]).unwrap();
        connection.process_new_packets().unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
    }
}

/// A client's certificate by `authority_name`, and that authority's.
fn client_identity(authority_name: &str, usage: ExtendedKeyUsagePurpose) -> (Identity, String) {
    let (mut ca, ca_key) = (CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, authority_name);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let (mut params, key) = (CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "joe");
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().der().clone();
    ((vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into()), ca_pem)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What comes of a client with this identity, which sends a command at once and waits for an answer.
async fn present(
    house: &House,
    acceptor: &Acceptor,
    version: &'static SupportedProtocolVersion,
    identity: Option<&Identity>,
) -> (Stream<Vec<u8>>, Result<TlsStream<TcpStream>, AcceptError>) {
    let builder = client_builder(&house.authority, &[version]);
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let (near, far) = connection().await;
    let client = async {
        let name = ServerName::try_from("pop.example.net").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, near).await?;
        stream.write_all(b"CAPA\r\n").await?;
        let mut answer = vec![0; 3];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let server = async {
        let mut stream = acceptor.handshake(far).await?;
        stream.write_all(b"+OK").await.map_err(AcceptError::Io)?;
        stream.flush().await.map_err(AcceptError::Io)?;
        Ok(stream)
    };
    in_time(async { tokio::join!(client, server) }).await
}

#[tokio::test]
async fn clients_present_certificates_where_they_must() {
    let house = House::new();
    let (good, ca_pem) = client_identity("Clients CA", ExtendedKeyUsagePurpose::ClientAuth);
    let (foreign, _) = client_identity("Foreign CA", ExtendedKeyUsagePurpose::ClientAuth);
    let client_ca = Some(house.write("clients", &ca_pem, "").cert);
    let required = Acceptor::new(&ServerTls { client_ca, ..house.settings() }, None).unwrap();
    for version in [&TLS12, &TLS13] {
        let (client, server) = present(&house, &required, version, Some(&good)).await;
        assert_eq!(client.unwrap(), b"+OK");
        let server = server.unwrap();
        assert_eq!(Certificate::parse(&server.get_ref().1.peer_certificates().unwrap()[0]).unwrap().subject, "CN=joe");

        let (client, server) = present(&house, &required, version, None).await;
        let error = server.unwrap_err();
        assert!(matches!(error, AcceptError::CertificateMissing), "{error}");
        let alert = client.unwrap_err().to_string();
        assert!(alert.contains("CertificateRequired") || alert.contains("HandshakeFailure"), "the alert arrived: {alert}");

        let (client, server) = present(&house, &required, version, Some(&foreign)).await;
        let error = server.unwrap_err();
        let words = error.to_string();
        assert!(
            words.starts_with("its certificate was issued by `CN=Foreign CA") || words.contains("who is not trusted"),
            "{words}"
        );
        assert_eq!(error.certificate().unwrap().subject, "CN=joe");
        assert!(error.hint().unwrap().contains("client_ca"));
        let alert = client.unwrap_err().to_string();
        assert!(alert.contains("UnknownCA"), "the alert arrived: {alert}");
    }
}

#[tokio::test]
async fn clients_need_no_certificate_where_they_may() {
    let house = House::new();
    let (good, ca_pem) = client_identity("Clients CA", ExtendedKeyUsagePurpose::ClientAuth);
    let (wrong, wrong_ca) = client_identity("Clients CA", ExtendedKeyUsagePurpose::ServerAuth);
    let optional = |ca: &str| {
        let client_ca = Some(house.write("clients", ca, "").cert);
        Acceptor::new(&ServerTls { client_ca, client_cert: ClientCert::Optional, ..house.settings() }, None).unwrap()
    };
    let acceptor = optional(&ca_pem);
    for identity in [None, Some(&good)] {
        let (client, server) = present(&house, &acceptor, &TLS13, identity).await;
        assert_eq!(client.unwrap(), b"+OK");
        assert_eq!(server.unwrap().get_ref().1.peer_certificates().is_some(), identity.is_some());
    }
    // What is presented is verified: a server's certificate is no client's.
    let (_, server) = present(&house, &optional(&wrong_ca), &TLS13, Some(&wrong)).await;
    assert!(matches!(server, Err(AcceptError::Certificate { .. })));
}

#[tokio::test]
async fn sessions_are_resumed_until_the_acceptor_is_replaced() {
    let house = House::new();
    let acceptor = house.acceptor();
    let client = Arc::new(house.client(&[&TLS13]));
    // The second is resumed with the ticket of the first, and the third with that of the second: there are no others.
    for (acceptor, expected) in [
        (acceptor.clone(), HandshakeKind::Full),
        (acceptor.clone(), HandshakeKind::Resumed),
        (acceptor, HandshakeKind::Resumed),
        (house.acceptor(), HandshakeKind::Full),
    ] {
        let (near, server) = meet(&acceptor, client.clone(), "pop.example.net").await;
        let (mut near, mut server) = (near.unwrap(), server.unwrap());
        assert_eq!(server.get_ref().1.handshake_kind(), Some(expected));
        // Tickets come behind the handshake, in front of this.
        server.write_all(b"+").await.unwrap();
        server.flush().await.unwrap();
        in_time(near.read_u8()).await.unwrap();
    }
}

#[tokio::test]
async fn application_protocols_do_not_matter() {
    let house = House::new();
    let mut client = house.client(BOTH);
    client.alpn_protocols = vec![b"imap".to_vec()];
    let (client, server) = meet(&house.acceptor(), client, "pop.example.net").await;
    assert_eq!((client.is_ok(), server.unwrap().get_ref().1.alpn_protocol()), (true, None));
}

#[tokio::test]
async fn secrets_are_logged_as_the_client_logs_them() {
    let house = House::new();
    let [near, far] = ["near", "far"].map(|name| house.folder.path().join(name));
    let (near_log, far_log) = (KeyLog::open(&near).unwrap(), KeyLog::open(&far).unwrap());
    let acceptor = Acceptor::new(&house.settings(), Some(&far_log)).unwrap();
    for (versions, label) in [(&[&TLS12][..], "CLIENT_RANDOM "), (&[&TLS13], "SERVER_TRAFFIC_SECRET_0 ")] {
        let mut client = house.client(versions);
        client.key_log = near_log.writer();
        let (client, server) = meet(&acceptor, client, "pop.example.net").await;
        let _both = (client.unwrap(), server.unwrap());
        let [mut near, mut far] =
            [&near, &far].map(|path| -> Vec<String> { fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect() });
        near.sort();
        far.sort();
        assert_eq!(near, far);
        assert_eq!(near.iter().filter(|line| line.starts_with(label)).count(), 1, "{near:?}");
    }
}
