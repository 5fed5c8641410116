//! The server's half of TLS.

use std::sync::Arc;

use rustls::{
    ConfigBuilder, Error, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{WantsServerCert, danger::ClientCertVerifier},
};

use super::{VERSIONS, provider};
use crate::config::TlsVersion;

/// A configuration that presents `chain` (the server's certificate first) to every client and asks for none of theirs.
///
/// # Errors
///
/// When a certificate or the key cannot be read, or the key is not the certificate's.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, ServerConfigError> {
    Ok(Arc::new(builder(TlsVersion::default(), None)?.with_single_cert(chain, key)?))
}

/// All but what is presented: the versions from `oldest` on, and who verifies clients, if they are asked for certificates.
pub(super) fn builder(
    oldest: TlsVersion,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, ServerConfigError> {
    let versions = match oldest {
        TlsVersion::Tls12 => VERSIONS,
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    Ok(match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    })
}

/// A certificate and a key that cannot serve.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificate with its key: {0}")]
pub struct ServerConfigError(#[from] Error);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Authority, Validity};

    #[test]
    fn a_key_must_be_the_certificates_own() {
        let authority = Authority::new("Test CA").unwrap();
        let one = authority.issue(&["one.example"], Validity::days(1)).unwrap();
        let other = authority.issue(&["other.example"], Validity::days(1)).unwrap();
        assert!(server_config(one.chain.clone(), one.key.clone_key()).is_ok());
        let error = server_config(one.chain, other.key).unwrap_err();
        assert!(error.to_string().contains("key"), "{error}");
    }
}
