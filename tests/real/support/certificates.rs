//! A certificate authority and a server certificate, made for one test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Where the files are, all PEM.
pub(crate) struct Certificates {
    /// The authority that clients should trust.
    pub(crate) authority: PathBuf,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub(crate) chain: PathBuf,
    /// The server's private key.
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Make them in a directory.
    pub(crate) fn make(directory: &Path) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        let authority_certificate = authority.self_signed(&authority_key).unwrap();

        let server_key = KeyPair::generate().unwrap();
        let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        server.distinguished_name.push(DnType::CommonName, "localhost");
        let issuer = Issuer::from_params(&authority, &authority_key);
        let server_certificate = server.signed_by(&server_key, &issuer).unwrap();

        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            authority: write("authority.pem", authority_certificate.pem()),
            chain: write("server.pem", server_certificate.pem()),
            key: write("server-key.pem", server_key.serialize_pem()),
        }
    }
}
