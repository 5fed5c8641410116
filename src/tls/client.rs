//! The client's half of TLS: the handshake with a server.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::ReadBuf, net::TcpStream};
use tokio_rustls::{Connect, TlsConnector, client::TlsStream};

use super::{HandshakeError, Trust, VERSIONS, provider, trust::REFUSED};
use crate::escape::escape;

/// Does handshakes with one server: whom to trust, which name its certificate must have, and the sessions to resume.
///
/// The name goes along as SNI (RFC 6066 §3); an address literal does not, and must stand in the certificate as an address.
/// No ALPN is offered: POP3 servers know none.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// For the server `host`, a DNS name or an address literal.
    ///
    /// # Errors
    ///
    /// [`NameError`] when `host` is neither.
    pub fn new(trust: &Trust, host: &str) -> Result<Self, NameError> {
        // A certificate never has the dot of a fully qualified name.
        let name = ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned())
            .map_err(|_| NameError { host: escape(host.as_bytes()) })?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|_| NameError { host: host.to_owned() })?
            .dangerous()
            .with_custom_certificate_verifier(trust.0.clone())
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
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
        result.map_err(|(error, refused)| HandshakeError::new(error, first.seen(), refused.as_deref()))
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
