//! The server's half of TLS: what a listener presents to its clients, and the handshake with one.

use std::{cell::Cell, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{ServerConfig, pki_types::CertificateDer, server::ServerSessionMemoryCache};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    AcceptError, AuthorityError, KeyLog, ServerConfigError, client_auth,
    mint::{Mint, MintError},
    pem::PemError,
    refusal::Circumstances,
    resolver::Resolver,
    server,
};
use crate::config::{KeyPair, ServerTls, TlsVersion};

/// Does handshakes with a listener's clients. Built once, and anew at each reload.
///
/// Sessions are resumed from memory: the last 1,024. Their secrets never leave the process, as they would in
/// a ticket that holds them, sealed with one key for all. A client is not asked for its certificate again then. They end with the
/// acceptor, so that after a reload every client is verified anew. What a client offers as ALPN is ignored: POP3 needs none.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    floor: TlsVersion,
    expiries: Vec<Expiry>,
}

impl Acceptor {
    /// Reads the certificates and keys, the authority to mint from, and those of clients. One that has expired is no error
    /// here, except for the authority to mint from: see [`Self::expiries`].
    ///
    /// # Errors
    ///
    /// [`AcceptorError`], with the file that cannot be used.
    pub fn new(settings: &ServerTls, key_log: Option<&KeyLog>) -> Result<Self, AcceptorError> {
        if settings.chains.is_empty() && settings.mint.is_none() {
            return Err(AcceptorError::Nothing);
        }
        let mint = settings.mint.as_ref().map(Mint::new).transpose()?;
        let minting = mint.as_ref().map(Mint::expiry);
        let mut resolver = Resolver::new(mint);
        let mut expiries = settings.chains.iter().map(|files| resolver.add(files)).collect::<Result<Vec<_>, _>>()?;
        expiries.extend(minting);
        let clients = settings.client_ca.as_ref().map(|ca| client_auth::verifier(ca, settings.client_cert)).transpose()?;
        let mut config = server::builder(settings.min_version, clients)?.with_cert_resolver(Arc::new(resolver));
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE);
        // Each connection uses one up, and gets another; rustls would send two.
        config.send_tls13_tickets = 1;
        if let Some(key_log) = key_log {
            config.key_log = key_log.writer();
        }
        Ok(Self { config: Arc::new(config), floor: settings.min_version, expiries })
    }

    /// Does the handshake. Dropping the future closes the connection; the caller limits the time.
    ///
    /// Waits for the client's first octets, and reads none unless they begin TLS. After a failure, rustls' alert has been
    /// sent, and the client had up to a second to take it in.
    ///
    /// # Errors
    ///
    /// [`AcceptError`], in words; the connection comes back where the client can still be told something in plain text.
    pub async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, AcceptError> {
        let mut first = [0; FIRST_OCTETS];
        let length = tcp.peek(&mut first).await.map_err(AcceptError::Io)?;
        let ancient = match Opening::of(&first[..length]) {
            Opening::Nothing => return Err(AcceptError::Closed),
            Opening::PlainText => return Err(AcceptError::plain_text(&first[..length], tcp)),
            opening => opening == Opening::Sslv2 || offers_no_tls12(&first[..length]),
        };
        let local = tcp.local_addr().ok().map(|address| address.ip());
        let accept = TlsAcceptor::from(self.config.clone()).accept(tcp).into_fallible();
        let handshake = async {
            let result = accept.await;
            result.map_err(|failure| HANDSHAKE.with(|left| (failure, left.unserved.get(), left.refused.take())))
        };
        let result = HANDSHAKE.scope(Handshake { local, ..Handshake::default() }, handshake).await;
        let ((error, tcp), unserved, refused) = match result {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        let error = AcceptError::new(error, Circumstances { ancient, unserved, refused: refused.as_deref(), floor: self.floor });
        if error.leaves_the_client_there() {
            Box::pin(let_go(tcp)).await;
        }
        Err(error)
    }

    /// Every certificate that it presents or issues with, and when that expires.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        self.expiries.clone()
    }
}

impl From<Arc<ServerConfig>> for Acceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { config, floor: TlsVersion::default(), expiries: Vec::new() }
    }
}

/// When a certificate expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Which one, in words: the file.
    pub what: String,
    /// The file itself.
    pub file: PathBuf,
    /// When.
    pub not_after: OffsetDateTime,
}

/// A listener's TLS that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptorError {
    /// Neither a chain nor an authority.
    #[error("cannot speak TLS with clients without a certificate")]
    Nothing,
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A key is not its certificate's.
    #[error("the key in `{}` is not that of the certificate in `{}`", files.key.display(), files.cert.display())]
    Mismatch {
        /// Both files.
        files: KeyPair,
    },
    /// A certificate or a key is of a kind that cannot be used.
    #[error("cannot use the certificate in `{}` with the key in `{}`: {cause}", files.cert.display(), files.key.display())]
    Unusable {
        /// Both files.
        files: KeyPair,
        /// Why.
        cause: String,
    },
    /// The authorities of clients cannot be used.
    #[error("cannot verify clients by the certificates in `{}`: {cause}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// There is no minting with this authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// rustls takes no such settings.
    #[error(transparent)]
    Config(#[from] ServerConfigError),
}

impl AcceptorError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let files = "name PEM files with a certificate and its key: `--cert FILE --key FILE`";
        match self {
            Self::Mismatch { .. } => "name the key with which the certificate was made; the server's certificate comes first",
            Self::ClientCa { .. } => "`client_ca` is a PEM file with the certificates of authorities",
            Self::Authority(error) => error.hint().unwrap_or(files),
            _ => files,
        }
    }
}

impl From<MintError> for AcceptorError {
    fn from(error: MintError) -> Self {
        match error {
            MintError::Authority(error) => Self::Authority(error),
            MintError::Key(error) => Self::Config(error),
        }
    }
}

tokio::task_local! {
    /// What rustls' callbacks need to know of the handshake that they are called in, and what they leave behind.
    ///
    /// The callbacks are shared by all connections, so it cannot be in there; and the errors that they return decide which
    /// alert the client is sent, so it cannot be in those.
    pub(super) static HANDSHAKE: Handshake;
}

/// One handshake.
#[derive(Default)]
pub(super) struct Handshake {
    /// The address that the client connected to.
    pub(super) local: Option<IpAddr>,
    /// Whether there was no certificate for it.
    pub(super) unserved: Cell<bool>,
    /// The client's certificate, if it was refused.
    pub(super) refused: Cell<Option<CertificateDer<'static>>>,
}

/// How a client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// It leaves.
    Nothing,
    /// A TLS record, if only an alert (RFC 8446 §5.1): no text begins with such a control character.
    Tls,
    /// The hello of SSL 2, in which clients once offered later versions, too (RFC 5246, appendix E.2).
    Sslv2,
    /// Anything else.
    PlainText,
}

impl Opening {
    fn of(octets: &[u8]) -> Self {
        match octets {
            [] => Self::Nothing,
            [0x14..=0x17, ..] => Self::Tls,
            [0x80..=0xff, _, 1, 0 | 3, ..] => Self::Sslv2,
            _ => Self::PlainText,
        }
    }
}

/// Whether a hello names a version before TLS 1.2 (RFC 5246 §7.4.1.2); later ones name 1.2 there, whatever else they offer.
fn offers_no_tls12(hello: &[u8]) -> bool {
    matches!(hello, [0x16, _, _, _, _, 1, _, _, _, 3, 0..=2, ..])
}

/// Closes so that an alert arrives: our end first, then whatever the client still says, then the close. Closing with octets
/// unread would send a reset, and that destroys what is under way.
async fn let_go(mut tcp: TcpStream) {
    let farewell = async {
        tcp.shutdown().await?;
        let (mut thrown_away, mut octets) = (0, [0; 4096]);
        while thrown_away < LINGER_OCTETS {
            match tcp.read(&mut octets).await? {
                0 => break,
                count => thrown_away += count,
            }
        }
        io::Result::Ok(())
    };
    // A client that has gone, or does not read, misses its alert.
    let _ = timeout(LINGER, farewell).await;
}

/// How many sessions can be resumed: as many as there are connections, by default.
const RESUMABLE: usize = 1024;
/// How much of what a client says first is looked at: enough for a word.
const FIRST_OCTETS: usize = 64;
/// How long an alert may take to reach the client.
const LINGER: Duration = Duration::from_secs(1);
/// Octets that are read and thrown away meanwhile.
const LINGER_OCTETS: usize = 64 * 1024;

#[cfg(test)]
mod tests;
