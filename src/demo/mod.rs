//! `poptap demo`: a mail server with a sample mailbox, and a client that reads it, both inside the process.
//!
//! Neither is meant for real mail: the user is `demo`, the password is `demo`, and nothing is kept.

mod client;
mod dialogue;
mod mailbox;
mod messages;
mod server;

pub use client::{ClientError, Fetched, converse};
pub use dialogue::{PASSWORD, USER};
pub use mailbox::{Mailbox, Message, stuff, unstuff};
pub use server::serve;

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Sessions at one time; further clients wait to be accepted.
const SESSIONS: usize = 64;
/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Serves `mailbox` to everybody who connects, over TLS from the first octet where `tls` is given.
///
/// It goes on until it is dropped, which ends its sessions too. At most 64 sessions are served at one time.
///
/// # Errors
/// When the listener fails. What goes wrong in a session ends that session only, and is logged at debug level.
pub async fn serve_listener(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    mailbox: Arc<Mailbox>,
) -> io::Result<()> {
    let tls = tls.map(TlsAcceptor::from);
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        if sessions.len() >= SESSIONS {
            sessions.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, client)) => drop(sessions.spawn(session(stream, client, tls.clone(), Arc::clone(&mailbox)))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn session(stream: TcpStream, client: SocketAddr, tls: Option<TlsAcceptor>, mailbox: Arc<Mailbox>) {
    // The greeting must not wait until the client has acknowledged the TLS tickets before it (Nagle).
    let _ = stream.set_nodelay(true);
    let served = match tls {
        Some(tls) => serve_tls(stream, &tls, mailbox).await,
        None => serve(stream, mailbox).await,
    };
    if let Err(error) = served {
        tracing::debug!(%client, %error, "the sample server's session failed");
    }
}

async fn serve_tls(stream: TcpStream, tls: &TlsAcceptor, mailbox: Arc<Mailbox>) -> io::Result<()> {
    let stream = timeout(HANDSHAKE, tls.accept(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    serve(stream, mailbox).await
}

/// What to say on a terminal when the scripted session is over and the demo stays up: how to reach the proxy at this address.
#[derive(Clone, Copy, Debug)]
pub struct Invitation<'a> {
    /// The proxy's plain address.
    pub plain: SocketAddr,
    /// The one where STLS is offered.
    pub stls: SocketAddr,
    /// The one for TLS from the first octet.
    pub implicit: SocketAddr,
    /// The authority to trust for these two.
    pub ca_file: &'a Path,
}

impl fmt::Display for Invitation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, stls, implicit, ca_file } = self;
        let ca_file = ca_file.display();
        writeln!(f, "That was the whole session. The mailbox and the proxy stay up: now point your own client at them.")?;
        writeln!(f)?;
        writeln!(f, "    curl -s pop3://{USER}:{PASSWORD}@{plain}/      lists the messages")?;
        writeln!(f, "    curl -s pop3://{USER}:{PASSWORD}@{plain}/1     fetches the first")?;
        writeln!(f, "    curl -s --cacert {ca_file} pop3s://{USER}:{PASSWORD}@{implicit}/1")?;
        writeln!(f, "    curl -s --cacert {ca_file} --ssl-reqd pop3://{USER}:{PASSWORD}@{stls}/1")?;
        writeln!(f)?;
        writeln!(f, "In a mail program: POP3, server {}, user `{USER}`, password `{PASSWORD}`, and", plain.ip())?;
        writeln!(
            f,
            "port {} without encryption, {} with STARTTLS, or {} with SSL/TLS.",
            plain.port(),
            stls.port(),
            implicit.port()
        )?;
        writeln!(f, "Deleted messages are back in the next session.")?;
        writeln!(f, "Each session appears here as it happens. Ctrl-C stops the demo.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Authority, Validity, server_config};
    use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    /// A server's configuration with a new certificate, and a client's that trusts only that.
    fn tls_pair() -> (Arc<ServerConfig>, TlsConnector) {
        let issued = Authority::self_signed(&["localhost", "127.0.0.1"], Validity::days(1)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.chain[0].clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let client = client.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
        (server_config(issued.chain, issued.key).unwrap(), TlsConnector::from(Arc::new(client)))
    }

    async fn listening(tls: Option<Arc<ServerConfig>>) -> (SocketAddr, JoinSet<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve_listener(listener, tls, Arc::new(Mailbox::sample())));
        (address, server)
    }

    #[tokio::test]
    async fn over_tcp_several_sessions_in_a_row() {
        let (address, _server) = listening(None).await;
        for _ in 0..3 {
            converse(TcpStream::connect(address).await.unwrap(), &Mailbox::sample()).await.unwrap();
        }
    }

    /// Holds a session over TLS, as a client that expects this name in the certificate.
    async fn converse_over_tls(connector: &TlsConnector, address: SocketAddr, name: &'static str) {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = connector.connect(name.try_into().unwrap(), stream).await.unwrap();
        converse(stream, &Mailbox::sample()).await.unwrap();
    }

    #[tokio::test]
    async fn over_tls_by_name_and_by_address() {
        let (server, connector) = tls_pair();
        let (address, _server) = listening(Some(server)).await;
        converse_over_tls(&connector, address, "localhost").await;
        converse_over_tls(&connector, address, "127.0.0.1").await;
    }

    #[tokio::test]
    async fn a_client_that_speaks_plain_to_tls_ends_only_its_own_session() {
        let (server, connector) = tls_pair();
        let (address, _server) = listening(Some(server)).await;
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"CAPA\r\n").await.unwrap();
        let mut heard = Vec::new();
        // The server may reset the connection behind its alert.
        let _ = plain.read_to_end(&mut heard).await;
        assert!(!heard.starts_with(b"+OK"), "{}", heard.escape_ascii());
        converse_over_tls(&connector, address, "localhost").await;
    }

    #[test]
    fn the_invitation_names_the_address_and_the_login() {
        let [plain, stls, implicit] = [1110, 2110, 1995].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let said = Invitation { plain, stls, implicit, ca_file: Path::new("ca.pem") }.to_string();
        for expected in [
            "curl -s pop3://demo:demo@127.0.0.1:1110/1 ",
            "curl -s --cacert ca.pem pop3s://demo:demo@127.0.0.1:1995/1\n",
            "curl -s --cacert ca.pem --ssl-reqd pop3://demo:demo@127.0.0.1:2110/1\n",
            "port 1110 without encryption, 2110 with STARTTLS, or 1995 with SSL/TLS",
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }
}
