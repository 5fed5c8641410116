//! The server's half of TLS: what a listener presents to its clients, and the handshake with one.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    KeyLog, ServerConfigError,
    pem::{self, PemError},
    server_config,
};
use crate::config::ServerTls;

/// Does handshakes with a listener's clients. Built once, and anew at each reload.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the certificates and keys.
    ///
    /// # Errors
    ///
    /// [`AcceptorError`], with the file that cannot be used.
    pub fn new(settings: &ServerTls, _key_log: Option<&KeyLog>) -> Result<Self, AcceptorError> {
        let pair = settings.chains.first().ok_or(AcceptorError::Nothing)?;
        let config = server_config(pem::certificates(&pair.cert)?, pem::private_key(&pair.key)?)?;
        Ok(Self { config })
    }

    /// Does the handshake. Dropping the future closes the connection; the caller limits the time.
    ///
    /// # Errors
    ///
    /// [`AcceptError`], in words; the connection comes back where the client can still be told something in plain text.
    pub async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, AcceptError> {
        TlsAcceptor::from(self.config.clone()).accept(tcp).await.map_err(AcceptError::Io)
    }

    /// Every certificate that it presents or issues with, and when that expires.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        Vec::new()
    }
}

impl From<Arc<ServerConfig>> for Acceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { config }
    }
}

/// When a certificate expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Which one, in words: the file.
    pub what: String,
    /// When.
    pub not_after: OffsetDateTime,
}

/// A listener's TLS that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AcceptorError {
    /// Neither a chain nor an authority.
    #[error("cannot speak TLS with clients without a certificate")]
    Nothing,
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate and its key do not fit.
    #[error(transparent)]
    Config(#[from] ServerConfigError),
}

impl AcceptorError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "name PEM files with a certificate and its key: `--cert FILE --key FILE`"
    }
}

/// Why TLS with a client does not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It spoke plain text.
    #[error("it speaks plain text, not TLS: `{first}`")]
    PlainText {
        /// The beginning of what it said, escaped.
        first: String,
        /// Whether that is an HTTP request.
        http: bool,
        /// The connection, to say so on.
        tcp: TcpStream,
    },
    /// The connection failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(io::Error),
}

impl AcceptError {
    /// What to do about it; `None` where that depends on things out of sight.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        None
    }
}
