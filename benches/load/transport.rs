//! Connections, plain or TLS, on either side.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, Ticketer},
    },
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(crate) type Stream = Box<dyn Transport>;

/// Binds a port on loopback that the system chooses.
pub(crate) async fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

#[derive(Clone)]
pub(crate) struct Acceptor(Option<TlsAcceptor>);

impl Acceptor {
    pub(crate) fn plain() -> Self {
        Self(None)
    }

    /// Its clients can resume their sessions.
    pub(crate) fn tls(cert: &Path, key: &Path) -> Result<Self> {
        let key = rustls_pemfile::private_key(&mut &*read(key)?)?.context("no key in the file")?;
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_single_cert(certificates(cert)?, key)?;
        config.ticketer = Ticketer::new()?;
        Ok(Self(Some(TlsAcceptor::from(Arc::new(config)))))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        Ok(match &self.0 {
            None => Box::new(stream),
            Some(tls) => Box::new(Box::pin(tls.accept(stream)).await?),
        })
    }
}

/// The way to a server.
#[derive(Clone)]
pub(crate) struct Connector {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Octets that are read from the socket at once where there is TLS, which itself asks for 4 KiB at most; 0 leaves it so.
    read_ahead: usize,
    resumed: Arc<AtomicUsize>,
}

impl Connector {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, read_ahead: 0, resumed: Arc::default() }
    }

    /// Its connections resume the session of an earlier one.
    pub(crate) fn tls(address: SocketAddr, ca: &Path, name: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let tls = (TlsConnector::from(Arc::new(config)), ServerName::try_from(name.to_owned())?);
        Ok(Self { tls: Some(tls), ..Self::plain(address) })
    }

    pub(crate) fn reading_ahead(&self, octets: usize) -> Self {
        Self { read_ahead: octets, ..self.clone() }
    }

    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some((tls, name)) = &self.tls else { return Ok(Box::new(stream)) };
        if self.read_ahead == 0 {
            let stream = Box::pin(tls.connect(name.clone(), stream)).await?;
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            self.resumed.fetch_add(usize::from(resumed), Ordering::Relaxed);
            return Ok(Box::new(stream));
        }
        let stream = BufReader::with_capacity(self.read_ahead, stream);
        Ok(Box::new(Box::pin(tls.connect(name.clone(), stream)).await?))
    }

    /// How many connections resumed the session of an earlier one, where nothing is read ahead.
    pub(crate) fn resumed(&self) -> usize {
        self.resumed.load(Ordering::Relaxed)
    }
}

/// sslsplit knows the second one only.
const GROUPS: [&dyn SupportedKxGroup; 2] = [aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];

/// Without the hybrid with ML-KEM, so that every proxy in between has the same work: most of them do not know it, and rustls
/// takes it where it can.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: GROUPS.to_vec(), ..aws_lc_rs::default_provider() })
}

/// Writes `ca.pem` and `ca.key`, and for `localhost` and 127.0.0.1 `server.pem`, `server.key` and both in `server-both.pem`.
pub(crate) fn certs(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "poptap bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let server = params.signed_by(&key, &ca)?.pem();

    fs::create_dir_all(folder)?;
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    write("ca.pem", &ca.pem())?;
    write("ca.key", &ca.key().serialize_pem())?;
    write("server.pem", &server)?;
    write("server.key", &key.serialize_pem())?;
    write("server-both.pem", &format!("{server}{}", key.serialize_pem()))?;
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_pemfile::certs(&mut &*read(path)?).collect::<Result<Vec<_>, _>>()?;
    ensure!(!found.is_empty(), "no certificate in {}", path.display());
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
