//! A certificate for the sample server, made on the spot and gone with the process.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// What the certificate is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// It is valid from this long before it was made, for clocks that differ, until this long after.
const VALID: Duration = Duration::days(7);

/// A new self-signed certificate for `localhost`, `127.0.0.1` and `::1`, valid for a week.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate as PEM: what a client has to trust.
    pub pem: String,
    /// A server's configuration with the certificate and its key: TLS 1.2 and 1.3, no client certificates.
    pub server: Arc<ServerConfig>,
}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// Key or certificate could not be generated.
    #[error("could not make a certificate for the sample server")]
    Make(#[from] rcgen::Error),
    /// The TLS library does not take what was generated.
    #[error("could not use the certificate that was made for the sample server")]
    Use(#[from] rustls::Error),
}

impl Certificate {
    /// Makes one, with a new key.
    ///
    /// # Errors
    /// When the cryptographic library fails; not in ordinary operation.
    pub fn make() -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let made = params()?.self_signed(&key)?;
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        Ok(Self { pem: made.pem(), server: Arc::new(server) })
    }
}

fn params() -> Result<CertificateParams, rcgen::Error> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::new(NAMES.map(String::from))?;
    params.distinguished_name.push(DnType::CommonName, "poptap demo");
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    Ok(params)
}
