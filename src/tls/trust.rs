//! Who is trusted, and what was presented when somebody was not.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    pem::{self, PemError},
    provider,
};

/// Whose certificates are accepted from a server.
#[derive(Clone, Debug)]
pub struct Trust(pub(super) Arc<dyn ServerCertVerifier>);

impl Trust {
    /// What an upstream asks for: the authorities in `ca_file` and nobody else, or the system's.
    ///
    /// # Errors
    ///
    /// When the file is missing, unreadable or without a usable certificate; when the system has no authorities.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        ca_file.map_or_else(Self::system, Self::file)
    }

    /// The authorities that this system trusts.
    ///
    /// # Errors
    ///
    /// When the system has none.
    pub fn system() -> Result<Self, TrustError> {
        let verifier = rustls_platform_verifier::Verifier::new(provider()).map_err(TrustError::System)?;
        Ok(Self::remembering(Arc::new(verifier)))
    }

    /// The certificates in a PEM file.
    ///
    /// # Errors
    ///
    /// When the file is missing, unreadable or without a usable certificate.
    pub fn file(path: &Path) -> Result<Self, TrustError> {
        let certificates = pem::certificates(path)?;
        Self::roots(certificates).map_err(|cause| TrustError::Unusable { path: path.to_owned(), cause })
    }

    /// These certificates.
    pub(super) fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|cause| Error::General(cause.to_string()))?;
        Ok(Self::remembering(verifier))
    }

    fn remembering(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self(Arc::new(Remembering(inner)))
    }
}

/// No trust can be built.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// What the file holds is no certificate that can be trusted.
    #[error("cannot trust the certificates in `{}`: {cause}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: Error,
    },
    /// The system has no authorities.
    #[error("cannot load the system's certificate authorities: {0}")]
    System(Error),
}

impl TrustError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Pem(_) | Self::Unusable { .. } => {
                "give a PEM file with the certificate of the authority that signed the server's"
            }
            Self::System(_) => "install the package `ca-certificates`, or name a file with `--upstream-ca`",
        }
    }
}

tokio::task_local! {
    /// The end-entity certificate that was refused in this handshake.
    ///
    /// It is not in the verifier, since that is shared by all connections to a server: rustls resumes sessions only
    /// under the very same verifier. It is not in the error either, since the error decides which alert the server is sent.
    pub(super) static REFUSED: Cell<Option<CertificateDer<'static>>>;
}

/// Remembers the certificate that `inner` refused, and never changes its verdict.
#[derive(Debug)]
struct Remembering(Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verdict.is_err() {
            // Outside a handshake of ours there is no place for it, and nobody who would ask.
            let _ = REFUSED.try_with(|refused| refused.set(Some(end_entity.clone().into_owned())));
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[rustls::DistinguishedName]> {
        self.0.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_usable_certificate_is_refused() {
        let missing = Trust::new(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(matches!(missing, TrustError::Pem(PemError::Read { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let unusable = Trust::new(Some(file.path())).unwrap_err();
        assert!(matches!(unusable, TrustError::Unusable { .. }));
        assert!(unusable.to_string().starts_with("cannot trust the certificates in `"), "{unusable}");
        assert!(unusable.hint().contains("PEM file"));
    }
}
