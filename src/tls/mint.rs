//! Certificates made while a client waits, for the name that it asks for.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::KeyPair;
use rustls::{
    pki_types::PrivatePkcs8KeyDer,
    sign::{CertifiedKey, SigningKey},
};
use time::{Duration, OffsetDateTime};

use super::{Authority, AuthorityError, Expiry, ServerConfigError, Validity, provider};
use crate::config;

/// An authority that issues a server's certificate for each name, and remembers it.
///
/// All have one ECDSA P-256 key, which lives as long as this does. Each is valid for 7 days, though not longer than the
/// authority's own certificate, and is made anew when less than half of that is left. At most [`REMEMBERED`] are kept, since
/// clients choose the names: beyond that, the oldest makes room.
pub(super) struct Mint {
    authority: Authority,
    cert: PathBuf,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    made: Mutex<Made>,
}

impl Mint {
    /// Reads the authority, and makes the key.
    pub(super) fn new(files: &config::KeyPair) -> Result<Self, MintError> {
        let authority = Authority::load(&files.cert, &files.key)?;
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = provider().key_provider.load_private_key(der.into()).map_err(ServerConfigError::from)?;
        Ok(Self { authority, cert: files.cert.clone(), key, signing, made: Mutex::default() })
    }

    /// The certificate for `name`, a DNS name in lower case or an address.
    pub(super) fn certificate(&self, name: &str, now: OffsetDateTime) -> Result<Arc<CertifiedKey>, AuthorityError> {
        if let Some(known) = self.made().get(name, now) {
            return Ok(known);
        }
        // The lock is not held meanwhile; two clients that ask for a name at once may get different certificates.
        let validity = self.validity(now)?;
        let chain = self.authority.issue_for(&self.key, &[name], validity)?;
        let certified = Arc::new(CertifiedKey::new(chain, self.signing.clone()));
        self.made().put(name, certified.clone(), self.renewal(validity, now));
        Ok(certified)
    }

    /// When the authority itself expires.
    pub(super) fn expiry(&self) -> Expiry {
        let what = format!("the authority in `{}`", self.cert.display());
        Expiry { what, file: self.cert.clone(), not_after: self.authority.not_after() }
    }

    fn validity(&self, now: OffsetDateTime) -> Result<Validity, AuthorityError> {
        let end = self.authority.not_after();
        if end <= now {
            return Err(AuthorityError::Expired { cert: self.cert.clone(), not_after: end });
        }
        Ok(Validity { from: now - Duration::HOUR, to: end.min(now + LIFE) })
    }

    /// One that ends with its authority cannot be made any better.
    fn renewal(&self, validity: Validity, now: OffsetDateTime) -> OffsetDateTime {
        if validity.to == self.authority.not_after() { validity.to } else { now + (validity.to - now) / 2 }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        // Nothing in there is ever half done.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Mint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Mint").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// An authority from which nothing can be issued.
#[derive(Debug, thiserror::Error)]
pub(super) enum MintError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Key(#[from] ServerConfigError),
}

/// Certificates by name; no more than [`REMEMBERED`].
#[derive(Default)]
struct Made {
    by_name: HashMap<String, Remembered>,
    count: u64,
}

struct Remembered {
    certified: Arc<CertifiedKey>,
    renewal: OffsetDateTime,
    number: u64,
}

impl Made {
    fn get(&self, name: &str, now: OffsetDateTime) -> Option<Arc<CertifiedKey>> {
        self.by_name.get(name).filter(|known| now < known.renewal).map(|known| known.certified.clone())
    }

    fn put(&mut self, name: &str, certified: Arc<CertifiedKey>, renewal: OffsetDateTime) {
        if self.by_name.len() >= REMEMBERED && !self.by_name.contains_key(name) {
            self.forget_the_oldest();
        }
        self.count += 1;
        self.by_name.insert(name.to_owned(), Remembered { certified, renewal, number: self.count });
    }

    fn forget_the_oldest(&mut self) {
        let oldest = self.by_name.iter().min_by_key(|(_, known)| known.number).map(|(name, _)| name.clone());
        if let Some(name) = oldest {
            self.by_name.remove(&name);
        }
    }
}

/// How long a certificate is valid.
const LIFE: Duration = Duration::days(7);
/// How many are kept: about 2 MiB.
const REMEMBERED: usize = 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tls::Certificate;

    fn mint() -> (tempfile::TempDir, Mint) {
        let folder = tempfile::tempdir().unwrap();
        let files = config::KeyPair { cert: folder.path().join("ca.pem"), key: folder.path().join("ca.key") };
        let authority = Authority::new("Test CA").unwrap();
        fs::write(&files.cert, authority.pem()).unwrap();
        fs::write(&files.key, &*authority.key_pem()).unwrap();
        let mint = Mint::new(&files).unwrap();
        (folder, mint)
    }

    fn read(certified: &CertifiedKey) -> Certificate {
        Certificate::parse(&certified.cert[0]).unwrap()
    }

    #[test]
    fn a_certificate_is_made_once_and_again_at_half_its_life() {
        let (_folder, mint) = mint();
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let first = mint.certificate("pop.example.net", now).unwrap();
        let certificate = read(&first);
        assert_eq!(certificate.names, ["pop.example.net"]);
        assert_eq!((certificate.not_before, certificate.not_after), (now - Duration::HOUR, now + Duration::days(7)));
        first.keys_match().unwrap();
        let half = now + Duration::hours(84);
        let again = mint.certificate("pop.example.net", half - Duration::SECOND).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let renewed = mint.certificate("pop.example.net", half).unwrap();
        assert_eq!(read(&renewed).not_after, half + Duration::days(7));
        assert!(!Arc::ptr_eq(&renewed, &mint.certificate("other.example.net", half).unwrap()));
    }

    #[test]
    fn nothing_outlives_the_authority() {
        let (_folder, mint) = mint();
        let end = mint.expiry().not_after;
        let last = mint.certificate("pop.example.net", end - Duration::days(2)).unwrap();
        assert_eq!(read(&last).not_after, end);
        let again = mint.certificate("pop.example.net", end - Duration::SECOND).unwrap();
        assert!(Arc::ptr_eq(&last, &again), "the same end: nothing is won");
        let error = mint.certificate("pop.example.net", end).unwrap_err();
        assert!(matches!(error, AuthorityError::Expired { .. }), "{error}");
    }

    #[test]
    fn addresses_stand_in_a_certificate_as_such() {
        let (_folder, mint) = mint();
        for address in ["192.0.2.7", "2001:db8::7"] {
            let made = mint.certificate(address, OffsetDateTime::now_utc()).unwrap();
            let end_entity = rustls::server::ParsedCertificate::try_from(&made.cert[0]).unwrap();
            rustls::client::verify_server_name(&end_entity, &address.try_into().unwrap()).unwrap();
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let (_folder, mint) = mint();
        let (now, certified) = (OffsetDateTime::now_utc(), mint.certificate("one", OffsetDateTime::now_utc()).unwrap());
        let mut made = Made::default();
        for n in 0..=REMEMBERED {
            made.put(&format!("{n}.example"), certified.clone(), now + LIFE);
        }
        assert_eq!(made.by_name.len(), REMEMBERED);
        assert!(made.get("0.example", now).is_none() && made.get("1.example", now).is_some());
        made.put("1.example", certified.clone(), now + LIFE);
        assert!(made.get("2.example", now).is_some(), "a renewal needs no room");
        made.put("new.example", certified, now + LIFE);
        assert!(made.get("1.example", now).is_some() && made.get("2.example", now).is_none());
    }
}
