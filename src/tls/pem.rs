//! PEM files: certificates and private keys.
//!
//! The only file that knows `rustls-pemfile`. That crate is no longer maintained; what is left of it is a thin layer over
//! `rustls-pki-types`, whose `PemObject` trait does the same work. To leave it, change this file and nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A PEM file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file is missing or cannot be read.
    #[error("cannot read `{}`: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A section's text is damaged.
    #[error("cannot decode `{}` as PEM: {cause}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is no section of the kind that is needed.
    #[error("there is no {wanted} in `{}`: expected a PEM section that begins with `-----BEGIN {label}-----`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for, in words.
        wanted: &'static str,
        /// The label of such a section.
        label: &'static str,
    },
}

/// All certificates in the file, in its order; at least one.
///
/// # Errors
///
/// When the file cannot be read, is damaged, or holds no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let content = read(path)?;
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut content.as_slice()).collect();
    match found {
        Err(cause) => Err(PemError::Decode { path: path.to_owned(), cause }),
        Ok(found) if found.is_empty() => {
            Err(PemError::Missing { path: path.to_owned(), wanted: "certificate", label: "CERTIFICATE" })
        }
        Ok(found) => Ok(found),
    }
}

/// The first private key in the file: PKCS #8, PKCS #1 or SEC1, unencrypted.
///
/// # Errors
///
/// When the file cannot be read, is damaged, or holds no such key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let content = zeroize::Zeroizing::new(read(path)?);
    rustls_pemfile::private_key(&mut content.as_slice())
        .map_err(|cause| PemError::Decode { path: path.to_owned(), cause })?
        .ok_or_else(|| PemError::Missing { path: path.to_owned(), wanted: "private key", label: "PRIVATE KEY" })
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(path).map_err(|cause| PemError::Read { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Authority, Validity};

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_chain_and_its_key_are_read_from_one_file() {
        let authority = Authority::new("Test CA").unwrap();
        let issued = authority.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        let both = file(&format!("{}{}", *issued.key_pem(), issued.chain_pem));
        assert_eq!(certificates(both.path()).unwrap(), issued.chain);
        assert_eq!(private_key(both.path()).unwrap(), issued.key);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let missing = certificates(Path::new("/nonexistent/ca.pem")).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read `/nonexistent/ca.pem`: No such file or directory (os error 2)");
        let empty = file("not a certificate\n");
        assert!(matches!(certificates(empty.path()), Err(PemError::Missing { wanted: "certificate", .. })));
        assert!(matches!(private_key(empty.path()), Err(PemError::Missing { wanted: "private key", .. })));
        let damaged = file("-----BEGIN CERTIFICATE-----\n*****\n-----END CERTIFICATE-----\n");
        assert!(matches!(certificates(damaged.path()), Err(PemError::Decode { .. })));
        let cut = file("-----BEGIN CERTIFICATE-----\nAAAA\n");
        assert!(matches!(certificates(cut.path()), Err(PemError::Decode { .. })));
    }
}
