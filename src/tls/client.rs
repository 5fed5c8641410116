//! The client's half of TLS: the handshake with a server.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{io::ReadBuf, net::TcpStream};
use tokio_rustls::{Connect, TlsConnector, client::TlsStream};

use super::{
    Expiry, HandshakeError, Identity, IdentityError, KeyLog, Presented, Trust, TrustError, identity::trusting, verifier::REFUSED,
};
use crate::{config::Upstream, escape::escape, record::schema};

/// Does handshakes with one server: whom to trust, which name its certificate must have, what to present to it, and the
/// sessions to resume.
///
/// The name goes along as SNI (RFC 6066 §3); an address literal does not, and must stand in the certificate as an address.
/// No ALPN is offered: POP3 servers know none.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    trust: Trust,
    expiry: Option<Expiry>,
}

impl Client {
    /// For the server `host`, a DNS name or an address literal; without a certificate of its own.
    ///
    /// # Errors
    ///
    /// [`ClientError`] when `host` is neither.
    pub fn new(trust: &Trust, host: &str) -> Result<Self, ClientError> {
        Self::build(trust.clone(), host, None, None)
    }

    /// As an upstream asks for it. Reads every file anew.
    ///
    /// # Errors
    ///
    /// [`ClientError`], with what cannot be used.
    pub fn of(upstream: &Upstream, key_log: Option<&KeyLog>) -> Result<Self, ClientError> {
        let identity = upstream.client.as_ref().map(Identity::read).transpose()?;
        let host = upstream.server_name.as_ref().unwrap_or(&upstream.host);
        Self::build(Trust::new(upstream)?, host, identity, key_log)
    }

    fn build(trust: Trust, host: &str, identity: Option<Identity>, key_log: Option<&KeyLog>) -> Result<Self, ClientError> {
        let name = server_name(host)?;
        let expiry = identity.as_ref().and_then(Identity::expiry);
        let builder = trusting(&trust).map_err(ClientError::Version)?;
        let mut config = match identity {
            Some(identity) => identity.present(builder)?,
            None => builder.with_no_client_auth(),
        };
        if let Some(key_log) = key_log {
            config.key_log = key_log.writer();
        }
        Ok(Self { config: Arc::new(config), name, trust, expiry })
    }

    /// When what it presents expires.
    #[must_use]
    pub fn expiry(&self) -> Option<&Expiry> {
        self.expiry.as_ref()
    }

    /// What the transcript says of whom was trusted. A resumed session was verified when it began, so this is what is
    /// configured, and not which fault there was.
    #[must_use]
    pub fn annotate(&self, tls: schema::Tls) -> schema::Tls {
        let accept = self.trust.accept.iter().map(|fault| fault.name().to_owned()).collect();
        schema::Tls { trust: Some(self.trust.source.to_owned()), accept, ..tls }
    }

    /// What the server has presented on this connection.
    pub(crate) fn presented(&self, connection: &ClientConnection) -> Presented {
        Presented::new(connection.peer_certificates().unwrap_or_default().iter(), &self.name)
    }

    /// Does the handshake. Dropping the future closes the connection; the caller limits the time.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`], in words.
    pub async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let mut connect = TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp);
        let mut first = FirstOctets::default();
        let handshake = async {
            let result = poll_fn(|cx| {
                first.look(&connect, cx);
                Pin::new(&mut connect).poll(cx)
            })
            .await;
            result.map_err(|error| (error, REFUSED.with(Cell::take)))
        };
        let result = REFUSED.scope(Cell::new(None), handshake).await;
        result.map_err(|(error, refused)| HandshakeError::new(error, first.seen(), refused))
    }
}

/// Whether a certificate can be for this host: a DNS name or an address literal.
///
/// # Errors
///
/// [`NameError`] when it is neither.
pub fn check_name(host: &str) -> Result<(), NameError> {
    server_name(host).map(|_| ())
}

fn server_name(host: &str) -> Result<ServerName<'static>, NameError> {
    // A certificate never has the dot of a fully qualified name.
    let name = ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned());
    name.map_err(|_| NameError { host: escape(host.as_bytes()) })
}

/// TLS with a server that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No name to verify.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing to present.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No version to speak.
    #[error("cannot prepare TLS: {0}")]
    Version(rustls::Error),
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Trust(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Name(_) => "give the server's name as its certificate has it",
            Self::Version(_) => "this build of poptap lacks what TLS needs; install another one",
        }
    }
}

/// A host that no certificate can be made for.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{host}` as the name of a TLS server: it is neither a DNS name nor an address")]
pub struct NameError {
    host: String,
}

/// How many octets of an answer that is not TLS are worth quoting.
const QUOTED: usize = 32;

/// The beginning of what the server answered, looked at before rustls takes it: the one way to tell plain text in words.
///
/// At worst, octets that arrive between this look and rustls' read are missed; then rustls' own error has to do.
#[derive(Default)]
struct FirstOctets {
    octets: [u8; QUOTED],
    length: usize,
}

impl FirstOctets {
    fn look(&mut self, connect: &Connect<TcpStream>, cx: &mut Context<'_>) {
        if self.length > 0 {
            return;
        }
        let mut buffer = ReadBuf::new(&mut self.octets);
        if let Some(tcp) = connect.get_ref()
            && let Poll::Ready(Ok(length)) = tcp.poll_peek(cx, &mut buffer)
        {
            self.length = length;
        }
    }

    fn seen(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}
