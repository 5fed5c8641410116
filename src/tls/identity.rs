//! What poptap presents to a server that asks for a certificate.

use rustls::{
    ClientConfig, ConfigBuilder, Error,
    client::WantsClientCert,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::{
    Certificate, Expiry, VERSIONS,
    pem::{self, PemError},
    provider,
    trust::Trust,
};
use crate::config::KeyPair;

/// A certificate with its key, read from files.
#[derive(Debug)]
pub struct Identity {
    files: Box<KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both files, and sees whether they fit together.
    ///
    /// # Errors
    ///
    /// When a file is missing, unreadable or without what is needed, and when the key is not the certificate's.
    pub fn read(files: &KeyPair) -> Result<Self, IdentityError> {
        let chain = pem::certificates(&files.cert)?;
        let key = pem::private_key(&files.key)?;
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider())
            .map_err(|cause| IdentityError::Mismatch { files: Box::new(files.clone()), cause })?;
        Ok(Self { files: Box::new(files.clone()), chain, key })
    }

    /// When it expires; `None` when the certificate cannot be read.
    pub(super) fn expiry(&self) -> Option<Expiry> {
        let certificate = self.chain.first().and_then(|certificate| Certificate::parse(certificate))?;
        let what = format!("the client certificate in `{}`", self.files.cert.display());
        Some(Expiry { what, file: self.files.cert.clone(), not_after: certificate.not_after })
    }

    pub(super) fn present(self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<ClientConfig, IdentityError> {
        let Self { files, chain, key } = self;
        builder.with_client_auth_cert(chain, key).map_err(|cause| IdentityError::Mismatch { files, cause })
    }
}

/// The configuration of a client up to the choice of what it presents itself.
pub(super) fn trusting(trust: &Trust) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(trust.verifier.clone()))
}

/// A certificate and key that cannot be presented.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// They do not fit together.
    #[error("cannot use the certificate in `{}` with the key in `{}`: {cause}", files.cert.display(), files.key.display())]
    Mismatch {
        /// Both files.
        files: Box<KeyPair>,
        /// Why.
        cause: Error,
    },
}

impl IdentityError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "name PEM files with the certificate for this server, `cert`, and its private key, `key`"
    }
}
