//! A certificate authority and a server certificate, made for one test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Make them in a directory, all PEM: `server.pem`, a certificate for `localhost` and 127.0.0.1, its key in `server-key.pem`,
/// and the authority that signed it. Returns the path of the authority's certificate.
pub(crate) fn make(directory: &Path) -> PathBuf {
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

    fs::write(directory.join("server.pem"), server_certificate.pem()).unwrap();
    fs::write(directory.join("server-key.pem"), server_key.serialize_pem()).unwrap();
    let path = directory.join("authority.pem");
    fs::write(&path, authority_certificate.pem()).unwrap();
    path
}
