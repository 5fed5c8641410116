//! The server's half of TLS.

use std::sync::Arc;

use rustls::{
    Error, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::{VERSIONS, provider};

/// A configuration that presents `chain` (the server's certificate first) to every client and asks for none of theirs.
///
/// # Errors
///
/// When a certificate or the key cannot be read, or the key is not the certificate's.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, ServerConfigError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))?;
    Ok(Arc::new(config))
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
