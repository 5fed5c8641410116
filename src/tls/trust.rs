//! Whom an upstream trusts, and what that is built from.
//!
//! Everything is read anew each time, so that a reload takes over exchanged files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertRevocationListError, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject as _},
    server::VerifierBuilderError,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::{
    pem::{self, PemError},
    provider,
    verifier::{Authorities, Rule, Verifier},
};
use crate::config::{Accept, Upstream};

/// Whose certificates are accepted from a server.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    /// `system`, `ca_file` or `pin`.
    pub(super) source: &'static str,
    /// The faults that are accepted.
    pub(super) accept: Vec<Accept>,
}

impl Trust {
    /// What an upstream asks for: the one certificate that it pins; or the authorities in its `ca_file` and nobody else, or
    /// the system's, with the faults that it accepts.
    ///
    /// # Errors
    ///
    /// When a file is missing, unreadable or without what is needed; when the system has no authorities.
    pub fn new(upstream: &Upstream) -> Result<Self, TrustError> {
        let accept = upstream.accept.clone();
        match (upstream.pin, &upstream.ca_file) {
            (Some(pin), _) => Ok(Self::by(Rule::Pin(pin), "pin", Vec::new())),
            (None, Some(file)) => Self::authorities(file, upstream.crl_file.as_deref(), accept),
            (None, None) => Self::system_with(accept),
        }
    }

    /// The authorities that this system trusts.
    ///
    /// # Errors
    ///
    /// When the system has none.
    pub fn system() -> Result<Self, TrustError> {
        Self::system_with(Vec::new())
    }

    /// The certificates in a PEM file.
    ///
    /// # Errors
    ///
    /// When the file is missing, unreadable or without a usable certificate.
    pub fn file(path: &Path) -> Result<Self, TrustError> {
        Self::authorities(path, None, Vec::new())
    }

    fn system_with(accept: Vec<Accept>) -> Result<Self, TrustError> {
        let verifier = rustls_platform_verifier::Verifier::new(provider()).map_err(TrustError::System)?;
        let authorities = Authorities { verifier: Arc::new(verifier), accept: accept.clone(), lists_end: None };
        Ok(Self::by(Rule::Authorities(authorities), "system", accept))
    }

    fn authorities(path: &Path, crl_file: Option<&Path>, accept: Vec<Accept>) -> Result<Self, TrustError> {
        let unusable = |cause| TrustError::Unusable { path: path.to_owned(), cause };
        let roots = roots(pem::certificates(path)?).map_err(unusable)?;
        let lists = crl_file.map(RevocationLists::read).transpose()?.unwrap_or_default();
        let lists_end = lists.end;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .with_crls(lists.lists)
            .enforce_revocation_expiration()
            .build()
            .map_err(|cause| match cause {
                VerifierBuilderError::InvalidCrl(cause) => {
                    TrustError::Lists { path: crl_file.unwrap_or(path).to_owned(), cause: words(&cause) }
                }
                cause => unusable(Error::General(cause.to_string())),
            })?;
        Ok(Self::by(Rule::Authorities(Authorities { verifier, accept: accept.clone(), lists_end }), "ca_file", accept))
    }

    fn by(rule: Rule, source: &'static str, accept: Vec<Accept>) -> Self {
        Self { verifier: Arc::new(Verifier::new(rule)), source, accept }
    }
}

/// Lists of certificates that their authorities took back (RFC 5280 §5).
///
/// Every certificate of a chain but the trusted one is looked up, and each needs a list of its issuer's that is current:
/// whoever is not known to be good is not good.
#[derive(Default)]
struct RevocationLists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// The first moment at which one of them is out of date.
    end: Option<UnixTime>,
}

impl RevocationLists {
    fn read(path: &Path) -> Result<Self, TrustError> {
        let fault = |cause: String| TrustError::Lists { path: path.to_owned(), cause };
        let found = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect);
        let lists: Vec<CertificateRevocationListDer<'static>> = found.map_err(|cause| fault(cause.to_string()))?;
        if lists.is_empty() {
            return Err(fault("it holds no section that begins with `-----BEGIN X509 CRL-----`".to_owned()));
        }
        let end = lists.iter().filter_map(next_update).min();
        Ok(Self { lists, end })
    }
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    certificates.into_iter().try_for_each(|certificate| roots.add(certificate))?;
    Ok(roots)
}

fn words(cause: &CertRevocationListError) -> String {
    match cause {
        CertRevocationListError::ParseError | CertRevocationListError::Other(_) => "one of them is damaged".to_owned(),
        CertRevocationListError::UnsupportedDeltaCrl => "one of them is a delta list".to_owned(),
        CertRevocationListError::UnsupportedIndirectCrl => "one of them is an indirect list".to_owned(),
        // Debug is all that they have.
        cause => format!("{cause:?}"),
    }
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<UnixTime> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    let seconds = u64::try_from(list.next_update()?.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
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
    /// The revocation lists cannot be used.
    #[error("cannot use the certificate revocation lists in `{}`: {cause}", path.display())]
    Lists {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
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
            Self::Lists { .. } => "give a PEM file with a whole revocation list of each authority in the server's chain",
            Self::System(_) => "install the package `ca-certificates`, or name a file with `--upstream-ca`",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;

    #[test]
    fn a_file_without_a_usable_certificate_is_refused() {
        let missing = Trust::file(Path::new("/nonexistent/ca.pem")).unwrap_err();
        assert!(matches!(missing, TrustError::Pem(PemError::Read { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let unusable = Trust::file(file.path()).unwrap_err();
        assert!(matches!(unusable, TrustError::Unusable { .. }));
        assert!(unusable.to_string().starts_with("cannot trust the certificates in `"), "{unusable}");
        assert!(unusable.hint().contains("PEM file"));
    }

    #[test]
    fn a_file_without_a_usable_list_is_refused() {
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), Authority::new("Test CA").unwrap().pem()).unwrap();
        let lists = tempfile::NamedTempFile::new().unwrap();
        for (content, said) in [
            ("", "holds no section"),
            ("-----BEGIN X509 CRL-----\n*****\n-----END X509 CRL-----\n", "cannot use"),
            ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "cannot use"),
        ] {
            std::fs::write(lists.path(), content).unwrap();
            let error = Trust::authorities(ca.path(), Some(lists.path()), Vec::new()).unwrap_err();
            assert!(matches!(error, TrustError::Lists { .. }) && error.to_string().contains(said), "{error}");
        }
        let missing = Trust::authorities(ca.path(), Some(Path::new("/nonexistent/crl.pem")), Vec::new()).unwrap_err();
        assert!(missing.to_string().starts_with("cannot use the certificate revocation lists in `/nonexistent/crl.pem`: "));
    }
}
