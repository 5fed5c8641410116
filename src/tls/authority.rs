//! A private certificate authority, for the demo, for tests and for one's own network.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// An authority with a fresh ECDSA P-256 key. Its key lives in memory only, unless it is asked for.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one that is valid for ten years from now.
    ///
    /// # Errors
    ///
    /// When the cryptographic library cannot make a key.
    pub fn new(common_name: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(Vec::new(), common_name, Validity::days(3650))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self { issuer })
    }

    /// Its certificate: what clients have to trust.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its private key in PEM (PKCS #8). Whoever has it can be any server for those who trust the authority.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Issues a server's certificate for these names and addresses; the first is its subject, too.
    ///
    /// # Errors
    ///
    /// When there is no name, or one cannot stand in a certificate.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Result<Issued, AuthorityError> {
        let (params, key) = server(names, validity)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.pem());
        Ok(Issued::new(vec![certificate.der().clone(), self.certificate()], chain_pem, &key))
    }

    /// Issues a server's certificate that nobody but its own key vouches for.
    ///
    /// # Errors
    ///
    /// When there is no name, or one cannot stand in a certificate.
    pub fn self_signed(names: &[&str], validity: Validity) -> Result<Issued, AuthorityError> {
        let (params, key) = server(names, validity)?;
        let certificate = params.self_signed(&key)?;
        Ok(Issued::new(vec![certificate.der().clone()], certificate.pem(), &key))
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

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It would be nobody's.
    #[error("cannot make a certificate without a name")]
    NoName,
    /// A name cannot stand in it, or the cryptographic library failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

fn server(names: &[&str], validity: Validity) -> Result<(CertificateParams, KeyPair), AuthorityError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let subject = names.first().ok_or(AuthorityError::NoName)?.clone();
    let mut params = params(names, &subject, validity)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok((params, KeyPair::generate()?))
}

fn params(names: Vec<String>, subject: &str, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = validity.from;
    params.not_after = validity.to;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_needs_a_name_that_can_stand_in_it() {
        let authority = Authority::new("Test CA").unwrap();
        assert!(authority.issue(&[], Validity::days(1)).is_err());
        assert!(authority.issue(&["n\u{f6}t.ascii"], Validity::days(1)).is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        let authority = Authority::new("Test CA").unwrap();
        let issued = authority.issue(&["pop.example.net"], Validity::days(1)).unwrap();
        assert_eq!(format!("{authority:?} {issued:?}"), "Authority { .. } Issued { chain: 2, .. }");
    }
}
