use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;
use crate::tls::{Authority, Issued, Validity};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, cert: &str, key: &str) -> config::KeyPair {
        let files = config::KeyPair { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    fn issued(&self, name: &str, issued: &Issued) -> config::KeyPair {
        self.write(name, &issued.chain_pem, &issued.key_pem())
    }
}

/// A certificate without subjectAltName.
fn without_names(common_name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The first name of what was chosen, or its common name.
fn who(chosen: Option<Arc<CertifiedKey>>) -> String {
    let certificate = Certificate::parse(&chosen.unwrap().cert[0]).unwrap();
    certificate.names.first().cloned().unwrap_or(certificate.subject)
}

#[test]
fn names_choose_the_chain() {
    let (folder, authority) = (Folder::new(), Authority::new("Test CA").unwrap());
    let mut resolver = Resolver::new(None);
    for (file, names) in [
        ("first", &["first.example", "shared.example"][..]),
        ("second", &["Second.Example", "shared.example", "pop.example.net"]),
        ("wild", &["*.example.net", "192.0.2.7"]),
    ] {
        let issued = authority.issue(names, Validity::days(1)).unwrap();
        resolver.add(&folder.issued(file, &issued)).unwrap();
    }
    let (cert, key) = without_names("Old.Example");
    resolver.add(&folder.write("old", &cert, &key)).unwrap();
    let local = "192.0.2.7".parse().ok();
    for (asked, expected) in [
        (Some("first.example"), "first.example"),
        (Some("second.example"), "Second.Example"),
        (Some("SECOND.example"), "Second.Example"),
        (Some("second.example."), "Second.Example"),
        (Some("shared.example"), "first.example"),
        (Some("pop.example.net"), "Second.Example"),
        (Some("imap.example.net"), "*.example.net"),
        (Some("IMAP.EXAMPLE.NET"), "*.example.net"),
        (Some("a.b.example.net"), "first.example"),
        (Some("example.net"), "first.example"),
        (Some("old.example"), "CN=Old.Example"),
        (Some("unknown.example"), "first.example"),
        (Some("localhost"), "first.example"),
        (Some("192.0.2.7"), "first.example"),
        (None, "first.example"),
    ] {
        assert_eq!(who(resolver.choose(asked, local)), expected, "{asked:?}");
    }
}

#[test]
fn a_common_name_does_not_count_beside_other_names() {
    let (folder, authority) = (Folder::new(), Authority::new("Test CA").unwrap());
    let mut resolver = Resolver::new(None);
    let first = authority.issue(&["first.example"], Validity::days(1)).unwrap();
    resolver.add(&folder.issued("first", &first)).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["real.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "claimed.example");
    let cert = params.self_signed(&key).unwrap().pem();
    resolver.add(&folder.write("other", &cert, &key.serialize_pem())).unwrap();
    assert_eq!(who(resolver.choose(Some("real.example"), None)), "real.example");
    assert_eq!(who(resolver.choose(Some("claimed.example"), None)), "first.example");
}

#[test]
fn an_authority_serves_all_other_names() {
    let (folder, authority) = (Folder::new(), Authority::new("Test CA").unwrap());
    let files = folder.write("ca", &authority.pem(), &authority.key_pem());
    let address = "::ffff:192.0.2.7".parse().ok();
    let mut resolver = Resolver::new(Some(Mint::new(&files).unwrap()));
    assert_eq!(who(resolver.choose(Some("Any.Example"), address)), "any.example");
    assert_eq!(who(resolver.choose(None, address)), "192.0.2.7");
    assert_eq!(who(resolver.choose(None, "2001:db8::7".parse().ok())), "2001:db8::7");
    assert!(resolver.choose(None, None).is_none());
    let chain = authority.issue(&["first.example"], Validity::days(1)).unwrap();
    resolver.add(&folder.issued("first", &chain)).unwrap();
    assert_eq!(who(resolver.choose(Some("any.example"), address)), "any.example");
    assert_eq!(who(resolver.choose(Some("first.example"), address)), "first.example");
    assert_eq!(who(resolver.choose(None, address)), "first.example");
}

#[test]
fn a_key_that_does_not_fit_is_refused_with_both_files() {
    let (folder, authority) = (Folder::new(), Authority::new("Test CA").unwrap());
    let one = authority.issue(&["one.example"], Validity::days(1)).unwrap();
    let other = authority.issue(&["other.example"], Validity::days(1)).unwrap();
    let files = folder.write("mixed", &one.chain_pem, &other.key_pem());
    let error = Resolver::new(None).add(&files).unwrap_err();
    let (cert, key) = (files.cert.display(), files.key.display());
    assert_eq!(error.to_string(), format!("the key in `{key}` is not that of the certificate in `{cert}`"));
    let files = config::KeyPair { cert: folder.issued("one", &one).cert, key: Path::new("/nonexistent/key").to_owned() };
    assert!(matches!(Resolver::new(None).add(&files), Err(AcceptorError::Pem(_))));
    let files = folder.write("rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &other.key_pem());
    let error = Resolver::new(None).add(&files).unwrap_err().to_string();
    assert!(error.starts_with("cannot use the certificate in `") && error.contains("rubbish.key"), "{error}");
}
