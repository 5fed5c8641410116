//! Certificates made for one test: Dovecot's, and those of poptap's own authority.

use std::fs;
use std::path::{Path, PathBuf};

use poptap::tls::{Authority, Issued, Validity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::clients::private_file;

/// The files that [`make_for_listener`] and [`write_for_listener`] write.
pub(crate) const AUTHORITY: &str = "ca.pem";
pub(crate) const CHAIN: &str = "pop.pem";
pub(crate) const KEY: &str = "pop-key.pem";

/// Who poptap is in these tests.
pub(crate) const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Let an authority of poptap's make a certificate for `localhost` and 127.0.0.1: three files in a directory.
pub(crate) fn make_for_listener(directory: &Path) {
    let authority = Authority::new("authority for listeners").unwrap();
    write_for_listener(directory, &authority, &authority.issue(&NAMES, Validity::days(30)).unwrap());
}

/// The lines of a listener's section that name the certificate in that directory, and its key.
pub(crate) fn settings(directory: &Path) -> String {
    format!("cert = '{}'\nkey = '{}'\n", directory.join(CHAIN).display(), directory.join(KEY).display())
}

/// Write the three files; each is replaced as a whole.
pub(crate) fn write_for_listener(directory: &Path, authority: &Authority, issued: &Issued) {
    fs::write(directory.join(AUTHORITY), authority.pem()).unwrap();
    fs::write(directory.join(CHAIN), &issued.chain_pem).unwrap();
    private_file(directory, KEY, &issued.key_pem());
}

/// Make an authority and a certificate for a server in a directory, all PEM: `server.pem`, a certificate for `localhost` and 127.0.0.1, its key in `server-key.pem`,
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
