//! A listener's side of TLS: certificates and keys, an authority to mint from, whose certificates clients may present.

use std::{ops::Range, path::PathBuf};

use toml::Spanned;

use crate::{
    config::{
        KeyPair, ServerTls, TlsDemand, TlsMode,
        address::ListenAddress,
        fault::Fault,
        file::{KeyPairSection, ListenerSection, MintSection},
    },
    tls::Acceptor,
};

use super::Resolver;

impl Resolver<'_> {
    /// What `address` asks for; `None` for a plain listener, and where something is missing or wrong, which is noted.
    pub(super) fn server_tls(
        &mut self,
        address: ListenAddress,
        section: Option<&Spanned<ListenerSection>>,
        span: Option<Range<usize>>,
    ) -> Option<ServerTls> {
        let raw = section.map(Spanned::get_ref);
        if address.tls == TlsMode::Plain {
            self.useless_on_plain(address, raw, span);
            return None;
        }
        let server_tls = self.gather(raw);
        if server_tls.chains.is_empty() && server_tls.mint.is_none() {
            if !self.is_broken(&["cert", "certs", "mint", "ca"]) {
                let message = format!("the listener {address} has no certificate");
                let hint = "name PEM files with `--cert FILE --key FILE` or `cert` and `key`; `poptap certs` makes some";
                self.fault(Fault::new(message, hint), span);
            }
            return None;
        }
        if raw.is_some_and(|raw| raw.client_cert.is_some()) && server_tls.client_ca.is_none() {
            let message = format!("the listener {address} says what becomes of clients' certificates, and trusts nobody's");
            self.fault(Fault::new(message, "name a file of authorities: `client_ca`"), span.clone());
        }
        match Acceptor::new(&server_tls, None) {
            Ok(acceptor) => self.warn_of_expired(&acceptor),
            Err(error) => {
                let span = raw.and_then(|raw| raw.cert.as_ref()).map(Spanned::span).or(span);
                self.fault(Fault::new(error.to_string(), error.hint()), span);
            }
        }
        Some(server_tls)
    }

    /// Whether clients have to start TLS first.
    pub(super) fn demand(
        &mut self,
        address: ListenAddress,
        raw: Option<&ListenerSection>,
        span: Option<Range<usize>>,
    ) -> TlsDemand {
        let in_file = raw.and_then(|raw| raw.tls).unwrap_or_default();
        let demand = if self.args.require_tls { TlsDemand::Required } else { in_file };
        if demand == TlsDemand::Required && address.tls == TlsMode::Plain {
            let message = format!("the plain listener {address} cannot require TLS");
            let hint = format!("listen with `pop3+stls://{0}` (STLS) or `pop3s://{0}` (TLS)", address.address);
            self.fault(Fault::new(message, hint), span);
        }
        demand
    }

    fn gather(&self, raw: Option<&ListenerSection>) -> ServerTls {
        let first = match (&self.args.cert, raw.and_then(|raw| raw.cert.as_ref())) {
            (Some(cert), _) => Some(pair(cert, self.args.key.as_ref())),
            (None, Some(cert)) => Some(pair(cert.get_ref(), raw.and_then(|raw| raw.key.as_ref()))),
            (None, None) => None,
        };
        let more = raw.and_then(|raw| raw.certs.as_deref()).unwrap_or_default();
        ServerTls {
            chains: first.into_iter().chain(more.iter().map(|KeyPairSection { cert, key }| pair(cert, key.as_ref()))).collect(),
            mint: raw.and_then(|raw| raw.mint.as_ref()).map(|MintSection { ca, key }| pair(ca, key.as_ref())),
            min_version: raw.and_then(|raw| raw.min_tls).unwrap_or_default(),
            client_ca: raw.and_then(|raw| raw.client_ca.clone()),
            client_cert: raw.and_then(|raw| raw.client_cert).unwrap_or_default(),
        }
    }

    fn useless_on_plain(&mut self, address: ListenAddress, raw: Option<&ListenerSection>, span: Option<Range<usize>>) {
        let Some(key) = raw.and_then(first_tls_key) else { return };
        let message = format!("the listener {address} is plain, and has no use for `{key}`");
        let hint = format!("listen with `pop3s://{0}` (TLS) or `pop3+stls://{0}` (STLS)", address.address);
        self.fault(Fault::new(message, hint), span);
    }

    fn warn_of_expired(&mut self, acceptor: &Acceptor) {
        let now = time::OffsetDateTime::now_utc();
        for expired in acceptor.expiries().into_iter().filter(|expiry| expiry.not_after < now) {
            let warning = format!("{} has expired on {}: clients will refuse it", expired.what, expired.not_after.date());
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

fn pair(cert: &PathBuf, key: Option<&PathBuf>) -> KeyPair {
    KeyPair { cert: cert.clone(), key: key.unwrap_or(cert).clone() }
}

fn first_tls_key(raw: &ListenerSection) -> Option<&'static str> {
    let present = [
        (raw.cert.is_some(), "cert"),
        (raw.key.is_some(), "key"),
        (raw.certs.is_some(), "certs"),
        (raw.mint.is_some(), "mint"),
        (raw.min_tls.is_some(), "min_tls"),
        (raw.client_ca.is_some(), "client_ca"),
        (raw.client_cert.is_some(), "client_cert"),
    ];
    present.into_iter().find_map(|(present, key)| present.then_some(key))
}
