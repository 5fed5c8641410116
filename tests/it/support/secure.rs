//! poptap with TLS on the client's hop, and clients that speak it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use poptap::tls::{Authority, Validity, server_config};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, crypto::aws_lc_rs, pki_types::ServerName,
};
use tempfile::TempDir;

use super::outside::{Client, Left, PATIENCE, Poptap, Server, read_line};

// ── who trusts whom ──

/// An authority, a certificate for 127.0.0.1 that it issued, and those who trust it.
pub struct Papers {
    folder: TempDir,
    /// What a client trusts.
    pub trust: Arc<ClientConfig>,
    /// What a server presents.
    pub server: Arc<ServerConfig>,
}

impl Papers {
    pub fn new() -> Self {
        let authority = Authority::new("Test CA").unwrap();
        let issued = authority.issue(&["127.0.0.1"], Validity::days(1)).unwrap();
        let folder = TempDir::with_prefix("poptap-tls-").unwrap();
        for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", issued.chain_pem.clone())] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::write(folder.path().join("key.pem"), issued.key_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate()).unwrap();
        let trust = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { folder, trust: Arc::new(trust), server: server_config(issued.chain, issued.key).unwrap() }
    }

    /// Where one of its files is.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// poptap in front of `server`, reached by `scheme`, with listeners of all three kinds.
    pub fn front(self, server: &Server, scheme: &str, configuration: &str) -> Front {
        self.front_of(&server.url(scheme), configuration)
    }

    /// poptap in front of the server at `url`.
    pub fn front_of(self, url: &str, configuration: &str) -> Front {
        let mut poptap =
            self.start(url, configuration, &["--listen", "pop3://127.0.0.1:0", IMPLICIT[0], IMPLICIT[1], STLS[0], STLS[1]]);
        let (implicit, stls) = (next_address(&mut poptap), next_address(&mut poptap));
        Front { poptap, implicit, stls, papers: self }
    }

    /// poptap in front of `server` without a plain listener: logins have to wait for TLS.
    pub fn strict_front(self, server: &Server) -> Front {
        let mut poptap = self.start(&server.url("pop3"), "", &[IMPLICIT[0], IMPLICIT[1], STLS[0], STLS[1], "--require-tls"]);
        let (implicit, stls) = (poptap.address, next_address(&mut poptap));
        Front { poptap, implicit, stls, papers: self }
    }

    fn start(&self, url: &str, configuration: &str, more: &[&str]) -> Poptap {
        let (ca, cert, key) = (self.path("ca.pem"), self.path("cert.pem"), self.path("key.pem"));
        let mut arguments = vec!["--upstream", url, "--cert", &cert, "--key", &key];
        if !url.starts_with("pop3:") {
            arguments.extend(["--upstream-ca", &ca]);
        }
        arguments.extend(more);
        Poptap::start(configuration, &arguments)
    }
}

const IMPLICIT: [&str; 2] = ["--listen", "pop3s://127.0.0.1:0"];
const STLS: [&str; 2] = ["--listen", "pop3+stls://127.0.0.1:0"];

/// Listeners are named in the order in which they were asked for.
fn next_address(poptap: &mut Poptap) -> SocketAddr {
    let line = poptap.log_line("listening on ");
    line.split_once("listening on ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
}

/// poptap with a plain listener (its own address; not where it is strict), one for TLS from the first octet, and one that offers STLS.
pub struct Front {
    pub poptap: Poptap,
    pub implicit: SocketAddr,
    pub stls: SocketAddr,
    pub papers: Papers,
}

/// How a client comes to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Implicit,
    Stls,
}

pub const BOTH: [Way; 2] = [Way::Implicit, Way::Stls];

impl Front {
    /// In front of `server` over plain text.
    pub fn of(server: &Server) -> Self {
        Papers::new().front(server, "pop3", "")
    }

    pub fn address(&self, way: Way) -> SocketAddr {
        match way {
            Way::Implicit => self.implicit,
            Way::Stls => self.stls,
        }
    }

    /// A client on this listener that has said nothing.
    pub fn connect(&self, way: Way) -> Client {
        Client::to(self.address(way))
    }

    /// A client that has been told to begin its handshake, with the first octet or behind STLS.
    pub fn ready(&self, way: Way) -> Client {
        let mut client = self.connect(way);
        if way == Way::Stls {
            assert_eq!(client.line(), GREETING);
            assert_eq!(client.ask("STLS"), AGREED);
        }
        client
    }

    /// A client inside TLS that has heard the greeting.
    pub fn secure(&self, way: Way) -> Secure {
        let client = self.ready(way);
        let mut client = Secure::over(client.0, &self.papers.trust).unwrap();
        if way == Way::Implicit {
            assert_eq!(client.line(), GREETING);
        }
        client
    }

    pub fn stop(self) -> Left {
        self.poptap.stop()
    }
}

/// What the scripted servers greet with.
pub const GREETING: &str = "+OK ready\r\n";
/// poptap's own answer to STLS.
pub const AGREED: &str = "+OK begin TLS now\r\n";

// ── the client inside TLS ──

/// A client inside TLS.
pub struct Secure<S: Read + Write = TcpStream>(pub StreamOwned<ClientConnection, S>);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer said that it is one: `close_notify`.
    Goodbye,
    /// The connection ended without that.
    Cut,
    Reset,
}

/// A handshake that has not begun.
pub fn handshake(trust: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(trust), ServerName::try_from("127.0.0.1").unwrap()).unwrap()
}

/// What a client's handshake begins with.
pub fn client_hello(trust: &Arc<ClientConfig>) -> Vec<u8> {
    let mut hello = Vec::new();
    handshake(trust).write_tls(&mut hello).unwrap();
    hello
}

impl<S: Read + Write> Secure<S> {
    /// Does the handshake.
    pub fn over(stream: S, trust: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::beginning(stream, handshake(trust))
    }

    /// Does this handshake, with what was written to it for the first record behind it.
    pub fn beginning(mut stream: S, mut connection: ClientConnection) -> io::Result<Self> {
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(connection, stream)))
    }

    pub fn say(&mut self, octets: &[u8]) -> &mut Self {
        self.0.write_all(octets).unwrap();
        self.0.flush().unwrap();
        self
    }

    /// One line, its end included.
    pub fn line(&mut self) -> String {
        String::from_utf8(read_line(&mut self.0).unwrap_or_default()).unwrap()
    }

    /// Says a line and hears one.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(format!("{line}\r\n").as_bytes()).line()
    }

    /// Says that it will say no more, and stays.
    pub fn goodbye(&mut self) -> &mut Self {
        self.0.conn.send_close_notify();
        self.0.flush().unwrap();
        self
    }

    /// All that still comes, and how it ends; then the client leaves.
    pub fn rest(mut self) -> (String, End) {
        let (octets, end) = hear_out(&mut self.0);
        (String::from_utf8(octets).unwrap(), end)
    }
}

/// All that comes until the end, and what kind of end that is.
pub fn hear_out(stream: &mut impl Read) -> (Vec<u8>, End) {
    let (mut all, mut some) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut some) {
            Ok(0) => return (all, End::Goodbye),
            Ok(count) => all.extend_from_slice(&some[..count]),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::UnexpectedEof => return (all, End::Cut),
                ErrorKind::WouldBlock => panic!("hangs for {PATIENCE:?} behind {}", all.escape_ascii()),
                _ => return (all, End::Reset),
            },
        }
    }
}

// ── awkward ways of sending ──

/// A stream of which each write takes one octet at most: over TCP an octet a segment, over TLS an octet a record.
pub struct Dribble<S>(pub S);

impl<S: Read> Read for Dribble<S> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.read(space)
    }
}

impl<S: Write> Write for Dribble<S> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let count = self.0.write(&octets[..octets.len().min(1)])?;
        self.0.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
