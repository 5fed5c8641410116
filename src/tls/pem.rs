//! PEM files: certificates and private keys.
//!
//! The only file that knows `rustls-pemfile`. That crate is no longer maintained; what is left of it is a thin layer over
//! `rustls-pki-types`, whose `PemObject` trait does the same work. To leave it, change this file and nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

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
    /// The private key is behind a passphrase.
    #[error(
        "cannot use the private key in `{path}`: it is encrypted; decrypt it with `openssl pkey -in {path} -out FILE`",
        path = path.display()
    )]
    Encrypted {
        /// The file.
        path: PathBuf,
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
    let content = Zeroizing::new(read(path)?);
    if ENCRYPTED.iter().any(|mark| memchr::memmem::find(&content, mark).is_some()) {
        return Err(PemError::Encrypted { path: path.to_owned() });
    }
    rustls_pemfile::private_key(&mut content.as_slice())
        .map_err(|cause| PemError::Decode { path: path.to_owned(), cause })?
        .ok_or_else(|| PemError::Missing { path: path.to_owned(), wanted: "private key", label: "PRIVATE KEY" })
}

/// One section, as RFC 7468 §2 has it: 64 columns, each line with its end.
pub(super) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    // Made in one piece: a text that grows leaves copies of a key behind.
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40));
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

/// How encrypted keys begin: in PKCS #8 (RFC 7468 §11), and in the older way (RFC 1421 §4.6.1.1).
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

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
        let secret = file("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        let encrypted = private_key(secret.path()).unwrap_err().to_string();
        assert!(encrypted.contains("it is encrypted; decrypt it with `openssl pkey -in /"), "{encrypted}");
        let secret = file("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n");
        assert!(matches!(private_key(secret.path()), Err(PemError::Encrypted { .. })));
        let cut = file("-----BEGIN CERTIFICATE-----\nAAAA\n");
        assert!(matches!(certificates(cut.path()), Err(PemError::Decode { .. })));
    }

    #[test]
    fn what_is_encoded_can_be_read() {
        let der: Vec<u8> = (0..=255).collect();
        for length in [0, 1, 47, 48, 49, 96, 256] {
            let text = encode("CERTIFICATE", &der[..length]);
            assert!(text.lines().all(|line| line.len() <= 64), "{}", *text);
            let read = certificates(file(&text).path());
            assert_eq!(read.unwrap(), [CertificateDer::from(&der[..length])], "{length}");
        }
    }
}
