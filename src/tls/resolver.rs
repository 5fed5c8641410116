//! Which certificate a client is shown.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use rustls::{
    Error, InconsistentKeys,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{AcceptorError, Certificate, Expiry, acceptor::HANDSHAKE, mint::Mint, pem, provider};
use crate::config;

/// The chains by name, and an authority for all other names.
///
/// A client's SNI (RFC 6066 §3) is looked up as it is, then as a wildcard for its first label (RFC 6125 §6.4.3). Where two
/// certificates have a name, the first file has it. A name that none has gets a minted certificate, or else the first chain; so
/// does a client without SNI, but in reverse: the first chain, or else a certificate for the address that it connected to.
#[derive(Debug)]
pub(super) struct Resolver {
    chains: Vec<Arc<CertifiedKey>>,
    /// Names in lower case, `*.` in front of wildcards; positions in `chains`.
    by_name: HashMap<String, usize>,
    mint: Option<Mint>,
}

impl Resolver {
    pub(super) fn new(mint: Option<Mint>) -> Self {
        Self { chains: Vec::new(), by_name: HashMap::new(), mint }
    }

    /// Reads one more chain and its key.
    ///
    /// # Errors
    ///
    /// When a file cannot be used, or they do not fit.
    pub(super) fn add(&mut self, files: &config::KeyPair) -> Result<Expiry, AcceptorError> {
        let certified = read(files)?;
        let unreadable = || AcceptorError::Unusable { files: files.clone(), cause: "the certificate cannot be read".to_owned() };
        let end_entity = certified.end_entity_cert().map_err(|_| unreadable())?;
        // Of the chain only this counts: many chains end in a root that expired long ago, and clients do not mind.
        let not_after = Certificate::parse(end_entity).ok_or_else(unreadable)?.not_after;
        for name in names(end_entity) {
            self.by_name.entry(name).or_insert(self.chains.len());
        }
        self.chains.push(Arc::new(certified));
        let what = format!("the certificate in `{}`", files.cert.display());
        Ok(Expiry { what, file: files.cert.clone(), not_after })
    }

    /// For a client that asks for `name`, and has connected to `local`.
    pub(super) fn choose(&self, name: Option<&str>, local: Option<IpAddr>) -> Option<Arc<CertifiedKey>> {
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        let first = || self.chains.first().cloned();
        match name {
            Some(name) => self.named(&name).or_else(|| self.mint(&name)).or_else(first),
            None => first().or_else(|| self.mint(&local?.to_canonical().to_string())),
        }
    }

    fn named(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let at = self.by_name.get(name).or_else(|| self.by_name.get(&wildcard()?))?;
        self.chains.get(*at).cloned()
    }

    fn mint(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let made = self.mint.as_ref()?.certificate(name, OffsetDateTime::now_utc());
        made.inspect_err(|error| tracing::error!(name, "no certificate for a client: {error}")).ok()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let local = HANDSHAKE.try_with(|handshake| handshake.local).ok().flatten();
        let chosen = self.choose(hello.server_name(), local);
        if chosen.is_none() {
            // Outside a handshake of ours there is nobody who would ask.
            let _ = HANDSHAKE.try_with(|handshake| handshake.unserved.set(true));
        }
        chosen
    }
}

fn read(files: &config::KeyPair) -> Result<CertifiedKey, AcceptorError> {
    let (chain, key) = (pem::certificates(&files.cert)?, pem::private_key(&files.key)?);
    CertifiedKey::from_der(chain, key, &provider()).map_err(|cause| match cause {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => AcceptorError::Mismatch { files: files.clone() },
        cause => AcceptorError::Unusable { files: files.clone(), cause: cause.to_string() },
    })
}

/// The DNS names in the subjectAltName; the common name only where there is no such extension (RFC 6125 §6.4.4).
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let common_names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(dns_name).collect(),
        Ok(None) => common_names.map(str::to_ascii_lowercase).collect(),
        Err(_) => Vec::new(),
    }
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
