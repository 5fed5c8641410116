//! A private certificate authority, for the demo, for tests and for one's own network.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, rfc3339},
    pem::{self, PemError},
};

/// An authority: made with a fresh ECDSA P-256 key, or read from files. Its key stays in memory, unless it is asked for.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, and those that lead from it to another authority.
    chain: Vec<CertificateDer<'static>>,
    key_label: &'static str,
    not_after: OffsetDateTime,
}

impl Authority {
    /// Makes one that is valid for ten years from now.
    ///
    /// # Errors
    ///
    /// When the cryptographic library cannot make a key.
    pub fn new(common_name: &str) -> Result<Self, AuthorityError> {
        Self::valid(common_name, Validity::days(3650))
    }

    /// Makes one that is valid for another time.
    ///
    /// # Errors
    ///
    /// When the cryptographic library cannot make a key.
    pub fn valid(common_name: &str, validity: Validity) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(Vec::new(), common_name, validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let chain = vec![params.self_signed(&key)?.der().clone()];
        Ok(Self { issuer: Issuer::new(params, key), chain, key_label: PKCS8, not_after: validity.to })
    }

    /// Reads one: its certificate in PEM, first in its file, and its key (PKCS #8, PKCS #1 or SEC1), perhaps in the same file.
    /// Further certificates in the file go along with whatever it issues.
    ///
    /// # Errors
    ///
    /// When a file cannot be used, the certificate is none of an authority's or has expired, or the key is another one's.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let (chain, key_der) = (pem::certificates(cert)?, pem::private_key(key)?);
        let unusable = |path: &Path, cause: String| AuthorityError::Unusable { path: path.to_owned(), cause };
        let not_after = signs(cert, &chain[0])?;
        let pair = KeyPair::try_from(&key_der).map_err(|cause| unusable(key, cause.to_string()))?;
        if !is_key_of(&pair, &chain[0]) {
            return Err(AuthorityError::Mismatch { cert: cert.to_owned(), key: key.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(&chain[0], pair).map_err(|cause| unusable(cert, cause.to_string()))?;
        let authority = Self { issuer, chain, key_label: label(&key_der), not_after };
        if !authority.signs_with_its_own_name()? {
            return Err(unusable(cert, "its subject has attributes that poptap cannot repeat as an issuer".to_owned()));
        }
        Ok(authority)
    }

    /// Its certificate: what clients have to trust.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::encode(CERTIFICATE, &self.chain[0]).to_string()
    }

    /// Its private key in PEM (PKCS #8, or as it was read). Whoever has it can be any server for those who trust the authority.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::encode(self.key_label, self.issuer.key().serialized_der())
    }

    /// When its certificate expires. What it has issued is worth nothing after that.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Issues a server's certificate for these names and addresses; the first is its subject, too.
    ///
    /// # Errors
    ///
    /// When there is no name, or one cannot stand in a certificate.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let chain = self.issue_for(&key, names, validity)?;
        let chain_pem = chain.iter().map(|der| pem::encode(CERTIFICATE, der).to_string()).collect();
        Ok(Issued::new(chain, chain_pem, &key))
    }

    /// The same for a key that is there already; the certificate comes first.
    pub(super) fn issue_for(
        &self,
        key: &KeyPair,
        names: &[&str],
        validity: Validity,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let certificate = server(names, validity)?.signed_by(key, &self.issuer)?;
        Ok([certificate.der().clone()].into_iter().chain(self.chain.iter().cloned()).collect())
    }

    /// Issues a server's certificate that nobody but its own key vouches for.
    ///
    /// # Errors
    ///
    /// When there is no name, or one cannot stand in a certificate.
    pub fn self_signed(names: &[&str], validity: Validity) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = server(names, validity)?.self_signed(&key)?;
        Ok(Issued::new(vec![certificate.der().clone()], certificate.pem(), &key))
    }

    /// rcgen keeps one attribute of each type, but some authorities have several (`DC=example, DC=net`). Nobody would find
    /// the way from what such a one issued to its certificate.
    fn signs_with_its_own_name(&self) -> Result<bool, AuthorityError> {
        let probe = self.issue_for(&KeyPair::generate()?, &["probe.invalid"], Validity::days(1))?;
        let (probe, own) = (parse(&probe[0]), parse(&self.chain[0]));
        Ok(probe.zip(own).is_some_and(|(probe, own)| probe.issuer().as_raw() == own.subject().as_raw()))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: OffsetDateTime,
    /// The last moment.
    pub to: OffsetDateTime,
}

impl Validity {
    /// From an hour ago, for clocks that are slow, until this many days from now.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { from: now - Duration::HOUR, to: now + Duration::days(i64::from(days)) }
    }
}

/// A server's certificate and its private key.
pub struct Issued {
    /// The certificate, and the authority's behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key (PKCS #8).
    pub key: PrivateKeyDer<'static>,
    /// The chain in PEM.
    pub chain_pem: String,
    key_pem: Zeroizing<String>,
}

impl Issued {
    fn new(chain: Vec<CertificateDer<'static>>, chain_pem: String, key: &KeyPair) -> Self {
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Self { chain, key: der.into(), chain_pem, key_pem: Zeroizing::new(key.serialize_pem()) }
    }

    /// The private key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key_pem.clone()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Issued").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// An authority that cannot be used, or a certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// It would be nobody's.
    #[error("cannot make a certificate without a name")]
    NoName,
    /// A name cannot stand in it, or the cryptographic library failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Its certificate may not issue others (RFC 5280 §4.2.1.3 and §4.2.1.9).
    #[error("cannot issue certificates with `{}`: it is no authority's certificate: {lacks}", cert.display())]
    NoAuthority {
        /// The certificate's file.
        cert: PathBuf,
        /// What it lacks.
        lacks: &'static str,
    },
    /// Its time is over.
    #[error("cannot issue certificates with `{}`: it expired on {}", cert.display(), rfc3339(*not_after))]
    Expired {
        /// The certificate's file.
        cert: PathBuf,
        /// When.
        not_after: OffsetDateTime,
    },
    /// The key is not the certificate's.
    #[error("cannot issue certificates with `{}`: the key in `{}` is not its own", cert.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file holds something else, or something that is not supported.
    #[error("cannot issue certificates with `{}`: {cause}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl AuthorityError {
    /// What to do about it; `None` where the words say it already.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoName | Self::Make(_) => "name servers by DNS names in ASCII or by addresses",
            Self::Pem(PemError::Encrypted { .. }) => return None,
            Self::Pem(_) | Self::Unusable { .. } => "name the PEM files of an authority's certificate and its key",
            Self::NoAuthority { .. } => "a server's certificate cannot issue others: make an authority with `poptap certs ca`",
            Self::Expired { .. } => "make a new authority, and have the clients trust it",
            Self::Mismatch { .. } => "name the key with which the authority was made",
        })
    }
}

/// When the certificate expires, provided that it may issue others until then.
fn signs(path: &Path, der: &[u8]) -> Result<OffsetDateTime, AuthorityError> {
    let unreadable = || AuthorityError::Unusable { path: path.to_owned(), cause: "its certificate cannot be read".to_owned() };
    let parsed = parse(der).ok_or_else(unreadable)?;
    let lacks = |lacks| AuthorityError::NoAuthority { cert: path.to_owned(), lacks };
    if !parsed.is_ca() {
        return Err(lacks("it has no `CA:TRUE` in its basic constraints"));
    }
    if parsed.key_usage().map_err(|_| unreadable())?.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(lacks("its key usage leaves out certificates"));
    }
    let not_after = Certificate::parse(der).ok_or_else(unreadable)?.not_after;
    if not_after < OffsetDateTime::now_utc() {
        return Err(AuthorityError::Expired { cert: path.to_owned(), not_after });
    }
    Ok(not_after)
}

fn is_key_of(key: &KeyPair, certificate: &[u8]) -> bool {
    parse(certificate).is_some_and(|one| one.public_key().subject_public_key.data == key.public_key_raw())
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)
}

fn label(key: &PrivateKeyDer<'_>) -> &'static str {
    match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => PKCS8,
    }
}

fn server(names: &[&str], validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let subject = names.first().ok_or(AuthorityError::NoName)?.clone();
    let mut params = params(names, &subject, validity)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// Of its own for each certificate, although some share a key: NSS refuses two with the same issuer and serial number.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive, and without a leading zero (RFC 5280 §4.1.2.2).
    octets[0] = octets[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&octets))
}

fn params(names: Vec<String>, subject: &str, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if subject.len() <= COMMON_NAME_LIMIT {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params.not_before = validity.from;
    params.not_after = validity.to;
    Ok(params)
}

/// How long a common name may be (RFC 5280, appendix A.1). A longer name stands in the subjectAltName alone.
const COMMON_NAME_LIMIT: usize = 64;

const CERTIFICATE: &str = "CERTIFICATE";
const PKCS8: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs};

    use super::*;

    /// What `load` says of these, written to files.
    fn load(cert: &str, key: &str) -> Result<Authority, AuthorityError> {
        let folder = tempfile::tempdir().unwrap();
        let (cert_path, key_path) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        fs::write(&cert_path, cert).unwrap();
        fs::write(&key_path, key).unwrap();
        Authority::load(&cert_path, &key_path)
    }

    /// The PEM files of an authority that is `changed`.
    fn authority_pem(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(Vec::new(), "Test CA", Validity::days(30)).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn an_authority_outlives_its_process() {
        let authority = Authority::new("Test CA").unwrap();
        let loaded = load(&authority.pem(), &authority.key_pem()).unwrap();
        assert_eq!((loaded.pem(), loaded.key_pem()), (authority.pem(), authority.key_pem()));
        assert_eq!(loaded.not_after(), authority.not_after().replace_nanosecond(0).unwrap());
        let issued = loaded.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        assert_eq!(issued.chain[1], authority.certificate());
        let (leaf, own) = (parse(&issued.chain[0]).unwrap(), parse(&issued.chain[1]).unwrap());
        assert_eq!(leaf.issuer().as_raw(), own.subject().as_raw());
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let authority = Authority::new("Test CA").unwrap();
        let server = authority.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        let error = load(&server.chain_pem, &server.key_pem()).unwrap_err();
        assert!(matches!(error, AuthorityError::NoAuthority { .. }), "{error}");
        assert!(error.hint().unwrap().contains("poptap certs ca"));
        let (cert, key) = authority_pem(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        let error = load(&cert, &key).unwrap_err().to_string();
        assert!(error.contains("ca.pem`: it is no authority's certificate: its key usage"), "{error}");
        let error = load("nothing", "nothing").unwrap_err();
        assert!(matches!(error, AuthorityError::Pem(PemError::Missing { .. })), "{error}");
    }

    #[test]
    fn an_expired_authority_is_refused() {
        let (cert, key) = authority_pem(|params| params.not_after = time::macros::datetime!(2021-01-02 03:04:05 UTC));
        let error = load(&cert, &key).unwrap_err().to_string();
        assert!(error.ends_with("ca.pem`: it expired on 2021-01-02T03:04:05Z"), "{error}");
    }

    #[test]
    fn a_foreign_key_is_refused_with_both_files() {
        let (one, other) = (Authority::new("Test CA").unwrap(), Authority::new("Test CA").unwrap());
        let error = load(&one.pem(), &other.key_pem()).unwrap_err().to_string();
        assert!(error.contains("ca.pem`: the key in `") && error.ends_with("ca.key` is not its own"), "{error}");
    }

    #[test]
    fn an_authority_whose_name_cannot_be_repeated_is_refused() {
        let twice = |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::OrganizationalUnitName, "one");
            // To rcgen another type, in the certificate the same.
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), "two");
        };
        let (cert, key) = authority_pem(twice);
        let error = load(&cert, &key).unwrap_err().to_string();
        assert!(error.contains("attributes that poptap cannot repeat"), "{error}");
    }

    #[test]
    fn a_chain_goes_along() {
        let root = Authority::new("Root CA").unwrap();
        let (cert, key) = authority_pem(|_| ());
        let below = load(&format!("{cert}{}", root.pem()), &key).unwrap();
        let issued = below.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        assert_eq!((issued.chain.len(), &issued.chain[2]), (3, &root.certificate()));
        assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 3);
    }

    #[test]
    fn serial_numbers_differ_though_the_key_does_not() {
        let authority = Authority::new("Test CA").unwrap();
        let key = KeyPair::generate().unwrap();
        let serial = |_| {
            let chain = authority.issue_for(&key, &["pop.example.net"], Validity::days(1)).unwrap();
            parse(&chain[0]).unwrap().raw_serial().to_vec()
        };
        assert_eq!((0..8).map(serial).collect::<HashSet<_>>().len(), 8);
    }

    #[test]
    fn a_certificate_needs_a_name_that_can_stand_in_it() {
        let authority = Authority::new("Test CA").unwrap();
        assert!(authority.issue(&[], Validity::days(1)).is_err());
        assert!(authority.issue(&["n\u{f6}t.ascii"], Validity::days(1)).is_err());
    }

    #[test]
    fn a_name_too_long_for_a_subject_stands_among_the_names() {
        let name = format!("{}.example.net", "long.".repeat(12));
        let issued = Authority::new("Test CA").unwrap().issue(&[&name], Validity::days(1)).unwrap();
        let certificate = Certificate::parse(&issued.chain[0]).unwrap();
        assert_eq!((certificate.subject, certificate.names), (String::new(), vec![name]));
    }

    #[test]
    fn debug_shows_no_key() {
        let authority = Authority::new("Test CA").unwrap();
        let issued = authority.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        assert_eq!(format!("{authority:?} {issued:?}"), "Authority { .. } Issued { chain: 2, .. }");
    }
}
