//! Connections to scripted servers on loopback: real sockets, real TLS, and every octet that the server received.

mod announcing;
mod trust;

use std::{future::Future, path::PathBuf, sync::Arc};

use rustls::{HandshakeKind, ServerConfig};
use time::macros::datetime;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;
use crate::{
    config::UpstreamUrl,
    tls::{Authority, Issued, Validity, server_config},
};

const NAME: &str = "pop.example.net";
const LIMIT: Duration = Duration::from_secs(30);
const TIMEOUTS: Timeouts = Timeouts {
    connect: LIMIT,
    handshake: LIMIT,
    greeting: LIMIT,
    login: LIMIT,
    idle: LIMIT,
    half_closed: LIMIT,
    reply: LIMIT,
    drain: LIMIT,
    rest: Duration::from_secs(10),
    longest_rest: Duration::from_secs(300),
};

/// An authority, and a file with its certificate.
struct Lab {
    authority: Authority,
    ca: tempfile::NamedTempFile,
}

impl Lab {
    fn new() -> Self {
        let authority = Authority::new("Lab CA").unwrap();
        let ca = file(&authority.pem());
        Self { authority, ca }
    }

    fn connector(&self, host: &str, mode: TlsMode) -> Connector {
        connector(host, 110, mode, Some(self.ca.path().to_owned()))
    }

    fn good(&self) -> Arc<ServerConfig> {
        config(self.authority.issue(&[NAME, "127.0.0.1"], Validity::days(61)).unwrap())
    }
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

fn config(issued: Issued) -> Arc<ServerConfig> {
    server_config(issued.chain, issued.key).unwrap()
}

fn upstream(host: &str, port: u16, tls: TlsMode, ca_file: Option<PathBuf>) -> Upstream {
    let (name, host) = ("test".into(), host.into());
    Upstream { name, ca_file, ..Upstream::at(&UpstreamUrl { tls, host, port, socket: None }) }
}

fn connector(host: &str, port: u16, tls: TlsMode, ca_file: Option<PathBuf>) -> Connector {
    Connector::new(&upstream(host, port, tls, ca_file), &TIMEOUTS, None).unwrap()
}

/// A server for one connection.
async fn serve<T, F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { script(listener.accept().await.unwrap().0).await });
    (address, server)
}

/// What the connector makes of a server: the result, and what the script returned.
async fn against<T, F>(
    connector: &Connector,
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Result<Connected, ConnectError>, T)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (address, server) = serve(script).await;
    let result = connector.secure(Stream::new(TcpStream::connect(address).await.unwrap()), Endpoint::Address(address)).await;
    // A failure has closed the connection; a success is for the caller to use, once the script is through.
    (result, server.await.unwrap())
}

/// Why a server cannot be connected to; a connection that stands after all is a failure at once, and the script is not waited for.
async fn fails<T, F>(connector: &Connector, script: impl FnOnce(TcpStream) -> F + Send + 'static) -> (ConnectError, T)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (address, server) = serve(script).await;
    let error =
        connector.secure(Stream::new(TcpStream::connect(address).await.unwrap()), Endpoint::Address(address)).await.unwrap_err();
    (error, server.await.unwrap())
}

/// All that is left to hear; a reset is an end, too.
async fn rest(tcp: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = tcp.read_to_end(&mut heard).await;
    heard
}

async fn hears(tcp: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    tcp.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);
}

/// Waits for the `ClientHello` and leaves it unread.
async fn awaits_hello(tcp: &TcpStream) {
    assert_eq!(tcp.peek(&mut [0; 1]).await.unwrap(), 1);
}

/// Nothing, or TLS records: no plain text.
fn assert_tls_only(heard: &[u8]) {
    assert!(matches!(heard, [] | [0x15 | 0x16, 3, ..]), "{}", heard.escape_ascii());
}

async fn accept(config: Arc<ServerConfig>, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    TlsAcceptor::from(config).accept(tcp).await
}

#[tokio::test]
async fn implicit_tls_stands_with_a_ca_file_and_is_described() {
    let lab = Lab::new();
    let config = lab.good();
    let (result, (sni, mut server)) = against(&lab.connector(NAME, TlsMode::Implicit), async move |tcp| {
        let tls = accept(config, tcp).await.unwrap();
        (tls.get_ref().1.server_name().map(str::to_owned), tls)
    })
    .await;
    let mut connected = result.unwrap();
    assert_eq!(sni.as_deref(), Some(NAME));
    assert_eq!(connected.received, b"");
    let tls = connected.tls.unwrap();
    assert_eq!((tls.mode.as_str(), tls.version.as_str()), ("implicit", "TLSv1.3"));
    assert!(tls.cipher.starts_with("TLS13_"), "{}", tls.cipher);
    assert_eq!(tls.subject.as_deref(), Some("CN=pop.example.net"));
    assert_eq!(tls.issuer.as_deref(), Some("CN=Lab CA"));
    assert_eq!(tls.fingerprint.as_ref().map(String::len), Some(64));
    assert_eq!(tls::days_left(&tls, OffsetDateTime::now_utc()), Some(60));

    server.write_all(b"+OK inside\r\n").await.unwrap();
    server.flush().await.unwrap();
    let mut line = [0; 12];
    connected.stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"+OK inside\r\n");
}

#[tokio::test]
async fn an_address_is_verified_as_an_address_and_sent_as_no_name() {
    let lab = Lab::new();
    let config = lab.good();
    let (result, sni) = against(&lab.connector("127.0.0.1", TlsMode::Implicit), async move |tcp| {
        let tls = accept(config, tcp).await.unwrap();
        tls.get_ref().1.server_name().map(str::to_owned)
    })
    .await;
    assert_eq!(sni, None);
    assert!(result.is_ok());
}

#[tokio::test]
async fn tls_1_2_is_the_floor_and_enough() {
    let lab = Lab::new();
    let issued = lab.authority.issue(&[NAME], Validity::days(1)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    let (result, _server) =
        against(&lab.connector(NAME, TlsMode::Implicit), async move |tcp| accept(Arc::new(config), tcp).await).await;
    assert_eq!(result.unwrap().tls.unwrap().version, "TLSv1.2");
}

#[tokio::test]
async fn a_second_connection_resumes_the_session() {
    let lab = Lab::new();
    let config = lab.good();
    let connector = lab.connector(NAME, TlsMode::Implicit);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let config = config.clone();
        let (address, server) = serve(async move |tcp| {
            let mut tls = accept(config, tcp).await.unwrap();
            tls.write_all(b"+OK\r\n").await.unwrap();
            tls.flush().await.unwrap();
            let kind = tls.get_ref().1.handshake_kind();
            tls.read_to_end(&mut Vec::new()).await.map(|_| kind)
        })
        .await;
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut connected = connector.secure(Stream::new(tcp), Endpoint::Address(address)).await.unwrap();
        connected.stream.read_exact(&mut [0; 5]).await.unwrap();
        connected.stream.shutdown().await.unwrap();
        kinds.push(server.await.unwrap().unwrap());
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

/// What comes of a server with this certificate, as `host`.
async fn refusal(connector: &Connector, issued: Issued) -> ConnectError {
    let config = config(issued);
    let (error, accepted) = fails(connector, async move |tcp| accept(config, tcp).await.map(|_| ())).await;
    // The server is told why, by an alert.
    assert!(accepted.unwrap_err().to_string().contains("alert"));
    assert_eq!(error.reason(), "upstream-tls");
    assert!(error.client_line().starts_with("-ERR [SYS/PERM] cannot start TLS with `"), "{}", error.client_line());
    error
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_explained() {
    let lab = Lab::new();
    let other = Authority::new("Other CA").unwrap();
    let soon = Validity::days(1);
    let past = Validity { from: datetime!(2020-01-01 0:00 UTC), to: datetime!(2021-01-01 0:00 UTC) };
    let future = Validity { from: datetime!(2100-01-01 0:00 UTC), to: datetime!(2101-01-01 0:00 UTC) };
    let cases = [
        (lab.authority.issue(&[NAME], past), "its certificate expired on 2021-01-01T00:00:00Z", "clock"),
        (lab.authority.issue(&[NAME], future), "its certificate is not valid before 2100-01-01T00:00:00Z", "clock"),
        (
            lab.authority.issue(&["mail.example.net", "192.0.2.1"], soon),
            "its certificate is not for `pop.example.net`, only for `mail.example.net`, `192.0.2.1`",
            "in the URL",
        ),
        (Authority::self_signed(&[NAME], soon), "its certificate is self-signed, and not among those trusted", "--upstream-ca"),
        (other.issue(&[NAME], soon), "its certificate was issued by `CN=Other CA`, who is not trusted", "--upstream-ca"),
    ];
    let connector = lab.connector(NAME, TlsMode::Implicit);
    for (issued, words, hint) in cases {
        let issued = issued.unwrap();
        let facts = tls::Certificate::parse(&issued.chain[0]).unwrap();
        let error = refusal(&connector, issued).await;
        assert_eq!(error.to_string(), format!("cannot start TLS with `pop.example.net:110`: {words}"));
        assert!(error.hint().unwrap().contains(hint), "{error}");
        assert!(error.detail().contains(&format!("(subject `{}`, issuer `{}`, valid from ", facts.subject, facts.issuer)));
    }
}

#[tokio::test]
async fn a_name_does_not_stand_for_an_address() {
    let lab = Lab::new();
    let issued = lab.authority.issue(&[NAME], Validity::days(1)).unwrap();
    let error = refusal(&lab.connector("127.0.0.1", TlsMode::Implicit), issued).await;
    assert!(error.to_string().ends_with("its certificate is not for `127.0.0.1`, only for `pop.example.net`"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted_by_itself() {
    let issued = Authority::self_signed(&[NAME], Validity::days(1)).unwrap();
    let ca = file(&issued.chain_pem);
    let connector = connector(NAME, 995, TlsMode::Implicit, Some(ca.path().to_owned()));
    let config = config(issued);
    let (result, _server) = against(&connector, async move |tcp| accept(config, tcp).await).await;
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test]
async fn an_authority_is_no_server() {
    // What `openssl req -x509` makes when it is told nothing else.
    let authority = Authority::new(NAME).unwrap();
    let (ca, key) = (file(&authority.pem()), file(&authority.key_pem()));
    let connector = connector(NAME, 995, TlsMode::Implicit, Some(ca.path().to_owned()));
    let config = server_config(vec![authority.certificate()], tls::pem::private_key(key.path()).unwrap()).unwrap();
    let (error, _server) = fails(&connector, async move |tcp| accept(config, tcp).await).await;
    assert!(error.to_string().ends_with("its certificate is a certificate authority's, not a server's"), "{error}");
    assert!(error.hint().unwrap().contains("CA:TRUE"));
}

/// With roots or without, the system's trust never reaches to an authority of our own.
#[tokio::test]
async fn the_system_does_not_trust_a_private_authority() {
    let issued = Lab::new().authority.issue(&[NAME], Validity::days(1)).unwrap();
    match tls::Trust::system() {
        Ok(trust) => {
            let connector = Connector {
                security: Security::Implicit(tls::Client::new(&trust, NAME).unwrap()),
                ..connector(NAME, 995, TlsMode::Plain, None)
            };
            let error = refusal(&connector, issued).await;
            assert!(error.to_string().ends_with("was issued by `CN=Lab CA`, who is not trusted"), "{error}");
        }
        Err(error) => assert!(error.hint().contains("ca-certificates"), "{error}"),
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_once() {
    let lab = Lab::new();
    let error = |host: &str, ca_file: PathBuf| {
        Connector::new(&upstream(host, 995, TlsMode::Stls, Some(ca_file)), &TIMEOUTS, None).unwrap_err()
    };
    let missing = error(NAME, "/nonexistent/ca.pem".into());
    assert!(missing.to_string().starts_with("cannot read `/nonexistent/ca.pem`: "), "{missing}");
    let nameless = error("no name", lab.ca.path().to_owned());
    assert_eq!(nameless.to_string(), "cannot use `no name` as the name of a TLS server: it is neither a DNS name nor an address");
    // Without TLS neither matters.
    assert!(
        Connector::new(&upstream("no name", 110, TlsMode::Plain, Some("/nonexistent/ca.pem".into())), &TIMEOUTS, None).is_ok()
    );
}

#[tokio::test]
async fn a_server_that_speaks_plain_text_is_told_from_one_that_closes() {
    let lab = Lab::new();
    let connector = lab.connector(NAME, TlsMode::Implicit);
    let (error, heard) = fails(&connector, async |mut tcp| {
        tcp.write_all(b"+OK POP3 \x1bready\r\n").await.unwrap();
        rest(&mut tcp).await
    })
    .await;
    assert!(error.to_string().ends_with("it speaks plain text, not TLS: `+OK POP3 \\x1bready`"), "{error}");
    assert!(error.hint().unwrap().contains("`pop3://`"));
    assert_tls_only(&heard);

    // Fewer octets than a TLS record's header, then the end.
    let (error, ()) = fails(&connector, async |mut tcp| {
        awaits_hello(&tcp).await;
        tcp.write_all(b"-E\r\n").await.unwrap();
        tcp.shutdown().await.unwrap();
        assert_tls_only(&rest(&mut tcp).await);
    })
    .await;
    assert!(error.to_string().ends_with("it speaks plain text, not TLS: `-E`"));

    let (error, ()) = fails(&connector, async |mut tcp| {
        awaits_hello(&tcp).await;
        tcp.shutdown().await.unwrap();
        assert_tls_only(&rest(&mut tcp).await);
    })
    .await;
    assert!(error.to_string().ends_with("it closed the connection during the handshake"), "{error}");
    assert!(error.client_line().starts_with("-ERR [SYS/TEMP] "));
}

#[tokio::test]
async fn alerts_and_old_versions_are_put_in_words() {
    let mut hello_1_0 = vec![0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    hello_1_0.extend([7; 32]);
    hello_1_0.extend([0, 0, 0x2f, 0]);
    let cases: [(Vec<u8>, &str); 4] = [
        (
            vec![0x15, 3, 3, 0, 2, 2, 40],
            "it refused the handshake: it accepts none of the ciphers and parameters offered (handshake_failure)",
        ),
        (vec![0x15, 3, 1, 0, 2, 2, 70], "it refused the handshake: it accepts neither TLS 1.2 nor TLS 1.3 (protocol_version)"),
        (vec![0x15, 3, 3, 0, 2, 2, 112], "it refused the handshake: it serves no host of this name (unrecognized_name)"),
        (hello_1_0, "it offers no TLS version from 1.2 on"),
    ];
    let lab = Lab::new();
    for (answer, words) in cases {
        let (error, _) = fails(&lab.connector(NAME, TlsMode::Implicit), async move |mut tcp| {
            awaits_hello(&tcp).await;
            tcp.write_all(&answer).await.unwrap();
            rest(&mut tcp).await
        })
        .await;
        assert!(error.to_string().ends_with(words), "{error}");
        assert!(error.client_line().starts_with("-ERR [SYS/PERM] "));
    }
}

#[tokio::test]
async fn stls_holds_the_greeting_and_relays_inside_tls() {
    let greeting = b"+OK hello \xff <1@pop>\n".as_slice();
    let lab = Lab::new();
    let config = lab.good();
    let (result, mut server) = against(&lab.connector(NAME, TlsMode::Stls), async move |mut tcp| {
        tcp.write_all(greeting).await.unwrap();
        hears(&mut tcp, b"STLS\r\n").await;
        tcp.write_all(b"+ok begin\r\n").await.unwrap();
        accept(config, tcp).await.unwrap()
    })
    .await;
    let mut connected = result.unwrap();
    assert_eq!(connected.received, greeting);
    assert_eq!(connected.tls.unwrap().mode, "stls");
    connected.stream.write_all(b"CAPA\r\n").await.unwrap();
    connected.stream.flush().await.unwrap();
    let mut heard = [0; 6];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"CAPA\r\n");
}

#[tokio::test]
async fn plain_text_between_stls_and_tls_is_never_accepted() {
    let lab = Lab::new();
    let connector = lab.connector(NAME, TlsMode::Stls);
    for injected in [b"+OK yours\r\n".as_slice(), b"\r\n", b"\0", b"+"] {
        let octets = [b"+OK begin\r\n", injected].concat();
        for cut in 0..=octets.len() {
            for hello_first in [false, true] {
                // Waiting for the ClientHello makes sense once the line was said that calls for it.
                if hello_first && !(b"+OK begin\r\n".len()..octets.len()).contains(&cut) {
                    continue;
                }
                let (first, second) = (octets[..cut].to_vec(), octets[cut..].to_vec());
                let config = lab.good();
                let (error, heard) = fails(&connector, async move |mut tcp| {
                    tcp.set_nodelay(true).unwrap();
                    tcp.write_all(b"+OK hello\r\n").await.unwrap();
                    hears(&mut tcp, b"STLS\r\n").await;
                    tcp.write_all(&first).await.unwrap();
                    tokio::task::yield_now().await;
                    if hello_first && tcp.peek(&mut [0; 1]).await.is_ok_and(|length| length == 0) {
                        return Vec::new();
                    }
                    let _ = tcp.write_all(&second).await;
                    // The attacker then lets the true server go on.
                    let mut hello = [0; 2];
                    match tcp.peek(&mut hello).await {
                        Ok(2) => assert_eq!(hello, [0x16, 3]),
                        _ => return Vec::new(),
                    }
                    let Ok(mut tls) = accept(config, tcp).await else { return Vec::new() };
                    let mut heard = Vec::new();
                    let _ = tls.read_to_end(&mut heard).await;
                    heard
                })
                .await;
                assert_eq!(error.reason(), "upstream-stls", "cut {cut}, hello first {hello_first}: {error}");
                assert!(error.client_line().starts_with("-ERR [SYS/PERM] "));
                assert_eq!(heard, b"");
            }
        }
    }
}

#[tokio::test]
async fn octets_that_look_like_tls_are_no_way_in_either() {
    let lab = Lab::new();
    for injected in [b"\x16".as_slice(), b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", b"\x14\x03\x03\x00\x01\x01\x16"] {
        let octets = [b"+OK begin\r\n", injected].concat();
        let config = lab.good();
        let (error, heard) = fails(&lab.connector(NAME, TlsMode::Stls), async move |mut tcp| {
            tcp.write_all(b"+OK hello\r\n").await.unwrap();
            hears(&mut tcp, b"STLS\r\n").await;
            tcp.write_all(&octets[..11]).await.unwrap();
            awaits_hello(&tcp).await;
            tcp.write_all(&octets[11..]).await.unwrap();
            let Ok(mut tls) = accept(config, tcp).await else { return Vec::new() };
            let mut heard = Vec::new();
            let _ = tls.read_to_end(&mut heard).await;
            heard
        })
        .await;
        assert!(matches!(error.reason(), "upstream-tls" | "upstream-stls"), "{error}");
        assert_eq!(heard, b"");
    }
}

#[tokio::test]
async fn stls_ends_without_another_octet_when_the_server_refuses() {
    let lab = Lab::new();
    let connector = lab.connector(NAME, TlsMode::Stls);
    let (error, heard) = fails(&connector, async |mut tcp| {
        tcp.write_all(b"-ERR [SYS/TEMP] too many\r\n").await.unwrap();
        rest(&mut tcp).await
    })
    .await;
    assert_eq!(heard, b"");
    assert_eq!(error.reason(), "upstream-refused");
    assert_eq!(
        error.client_line(),
        "-ERR [SYS/TEMP] cannot open a session with `pop.example.net:110`: it answered `-ERR [SYS/TEMP] too many`\r\n"
    );

    let (error, heard) = fails(&connector, async |mut tcp| {
        tcp.write_all(b"+OK\r\n").await.unwrap();
        hears(&mut tcp, b"STLS\r\n").await;
        tcp.write_all(b"-ERR unknown command\r\n").await.unwrap();
        rest(&mut tcp).await
    })
    .await;
    assert_eq!(heard, b"");
    assert_eq!(error.reason(), "upstream-stls");
    assert!(
        error
            .detail()
            .ends_with("it refused STLS: `-ERR unknown command`; hint: the server may offer TLS on port 995: use `pop3s://`")
    );
}

#[tokio::test]
async fn a_certificate_is_verified_after_stls_too() {
    let lab = Lab::new();
    let config = config(Authority::self_signed(&[NAME], Validity::days(1)).unwrap());
    let (error, accepted) = fails(&lab.connector(NAME, TlsMode::Stls), async move |mut tcp| {
        tcp.write_all(b"+OK\r\n").await.unwrap();
        hears(&mut tcp, b"STLS\r\n").await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        accept(config, tcp).await.is_ok()
    })
    .await;
    assert!(!accepted);
    assert_eq!(error.reason(), "upstream-tls");
}

/// Says this, then nothing more; returns all that was heard until the client gave up.
async fn says_and_waits(mut tcp: TcpStream, lines: &[&[u8]]) -> Vec<u8> {
    let mut heard = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if n == 1 {
            hears(&mut tcp, b"STLS\r\n").await;
            heard.extend(b"STLS\r\n");
        }
        tcp.write_all(line).await.unwrap();
    }
    heard.extend(rest(&mut tcp).await);
    heard
}

#[tokio::test(start_paused = true)]
async fn silence_has_a_limit_in_every_step() {
    let lab = Lab::new();
    let (error, heard) = fails(&lab.connector(NAME, TlsMode::Stls), async |tcp| says_and_waits(tcp, &[]).await).await;
    assert_eq!((error.reason(), heard.as_slice()), ("timeout-greeting", b"".as_slice()));
    assert!(
        error.detail().ends_with("it said nothing within 30s; hint: perhaps it expects TLS from the first octet: use `pop3s://`")
    );

    let (error, heard) = fails(&lab.connector(NAME, TlsMode::Stls), async |tcp| says_and_waits(tcp, &[b"+OK\r\n"]).await).await;
    assert_eq!((error.reason(), heard.as_slice()), ("timeout-handshake", b"STLS\r\n".as_slice()));

    let (error, heard) =
        fails(&lab.connector(NAME, TlsMode::Stls), async |tcp| says_and_waits(tcp, &[b"+OK\r\n", b"+OK\r\n"]).await).await;
    assert_eq!(error.reason(), "timeout-handshake");
    assert_tls_only(heard.strip_prefix(b"STLS\r\n").unwrap());

    let (error, heard) = fails(&lab.connector(NAME, TlsMode::Implicit), async |tcp| says_and_waits(tcp, &[]).await).await;
    assert_eq!(error.reason(), "timeout-handshake");
    assert!(
        error.client_line().starts_with(
            "-ERR [SYS/TEMP] cannot start TLS with `pop.example.net:110`: it did not finish the handshake within 30s"
        )
    );
    assert_tls_only(&heard);
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    // Bound and not listening: nobody else can take the port meanwhile.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let error = connector("127.0.0.1", address.port(), TlsMode::Plain, None).connect(&Origin::own()).await.unwrap_err();
    assert_eq!(error.reason(), "upstream-refused");
    assert_eq!(error.client_line(), format!("-ERR [SYS/TEMP] cannot connect to `{address}`: {address}: connection refused\r\n"));
    assert!(error.detail().contains("; hint: "));
}

#[tokio::test]
async fn a_plain_connection_is_handed_over_untouched() {
    let (address, server) = serve(async |mut tcp| {
        tcp.write_all(b"+OK hello\r\n").await.unwrap();
        rest(&mut tcp).await
    })
    .await;
    let connector = connector("127.0.0.1", address.port(), TlsMode::Plain, None);
    // As a task: its future must be able to move between threads.
    let mut connected = tokio::spawn(async move { connector.connect(&Origin::own()).await }).await.unwrap().unwrap();
    assert_eq!(
        (connected.address, connected.received.as_slice(), connected.tls),
        (Endpoint::Address(address), b"".as_slice(), None)
    );
    let mut line = [0; 11];
    connected.stream.read_exact(&mut line).await.unwrap();
    drop(connected.stream);
    assert_eq!(&line, b"+OK hello\r\n");
    assert_eq!(server.await.unwrap(), b"");
}

#[tokio::test]
async fn a_probe_says_quit_and_nothing_else() {
    let (address, server) = serve(async |mut tcp| {
        tcp.write_all(b"+OK [XCLIENT] Dovecot\x07 ready.\r\n").await.unwrap();
        hears(&mut tcp, b"QUIT\r\n").await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        rest(&mut tcp).await
    })
    .await;
    let report = connector("127.0.0.1", address.port(), TlsMode::Plain, None).probe().await.unwrap();
    assert_eq!(report.greeting, "+OK [XCLIENT] Dovecot\\x07 ready.");
    assert!(report.xclient);
    assert_eq!((report.address, report.tls, report.days_left), (Endpoint::Address(address), None, None));
    assert_eq!(server.await.unwrap(), b"");
}

#[tokio::test]
async fn a_probe_over_stls_keeps_the_greeting_and_quits_inside_tls() {
    let lab = Lab::new();
    let config = lab.good();
    let (address, server) = serve(async move |mut tcp| {
        tcp.write_all(b"+OK hello\r\n").await.unwrap();
        hears(&mut tcp, b"STLS\r\n").await;
        tcp.write_all(b"+OK\r\n").await.unwrap();
        let mut tls = accept(config, tcp).await.unwrap();
        let mut quit = [0; 6];
        tls.read_exact(&mut quit).await.unwrap();
        tls.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tls.read_to_end(&mut rest).await.unwrap();
        (quit, rest)
    })
    .await;
    let connector = connector("127.0.0.1", address.port(), TlsMode::Stls, Some(lab.ca.path().to_owned()));
    let report = connector.probe().await.unwrap();
    assert_eq!((report.greeting.as_str(), report.xclient, report.days_left), ("+OK hello", false, Some(60)));
    assert_eq!(server.await.unwrap(), (*b"QUIT\r\n", Vec::new()));
}

#[tokio::test]
async fn a_probe_reports_a_refusal_and_an_end() {
    for (says, reason) in [(b"-ERR busy\r\n".as_slice(), "upstream-refused"), (b"", "upstream-unreachable")] {
        let (address, server) = serve(async move |mut tcp| {
            tcp.write_all(says).await.unwrap();
            tcp.shutdown().await.unwrap();
            rest(&mut tcp).await
        })
        .await;
        let error = connector("127.0.0.1", address.port(), TlsMode::Plain, None).probe().await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert_eq!(server.await.unwrap(), b"");
    }
}
