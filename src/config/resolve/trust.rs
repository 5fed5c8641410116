//! How far an upstream is trusted: what fits together, what can be used, and what weakens it.

use std::ops::Range;

use toml::Spanned;

use crate::{
    config::{Accept, TlsMode, Upstream, fault::Fault, file::UpstreamSection},
    tls::{self, Identity, Trust, TrustError},
};

use super::Resolver;

impl Resolver<'_> {
    /// Notes every fault in what `raw` says of trust, and warns of all that weakens it. `is_ca_usable` is false when a fault
    /// of the authorities' file was noted already.
    pub(super) fn trust(&mut self, upstream: &Upstream, raw: &UpstreamSection, is_ca_usable: bool) {
        if upstream.tls == TlsMode::Plain {
            self.useless_without_tls(upstream, raw);
            return;
        }
        self.contradictions(upstream, raw);
        if is_ca_usable {
            self.revocation(upstream, raw);
        }
        self.identity(upstream, raw);
        self.server_name(raw);
        for fault in &upstream.accept {
            self.warnings.push(format!("`{}`: {}", upstream.name, weakness(*fault)));
        }
    }

    fn useless_without_tls(&mut self, upstream: &Upstream, raw: &UpstreamSection) {
        for (key, span) in tls_keys(raw) {
            let message = format!("the upstream `{}` is plain, and has no use for `{key}`", upstream.name);
            let hint = "without TLS nothing is verified: use `pop3s://` (TLS) or `pop3+stls://` (STLS), or leave it out";
            self.fault(Fault::new(message, hint), Some(span));
        }
    }

    fn contradictions(&mut self, upstream: &Upstream, raw: &UpstreamSection) {
        if let (Some(pin), true) = (&raw.pin, upstream.ca_file.is_some() || raw.accept.is_some()) {
            let other = if upstream.ca_file.is_some() { "ca_file" } else { "accept" };
            let message = format!("`pin` takes the place of everything else, `{other}` too");
            self.fault(Fault::new(message, "leave out one of the two"), Some(pin.span()));
        }
        if let (Some(file), None) = (&raw.crl_file, &upstream.ca_file)
            && !self.is_broken(&["ca_file"])
        {
            let hint = "name the authorities, too: `ca_file`; revocation lists of the system's are not supported";
            self.fault(Fault::new("there is a `crl_file`, and no `ca_file`", hint), Some(file.span()));
        }
        if let (Some(key), None) = (&raw.key, &raw.cert)
            && !self.is_broken(&["cert"])
        {
            let hint = "name the certificate that it belongs to: `cert`";
            self.fault(Fault::new("there is a `key`, and no `cert`", hint), Some(key.span()));
        }
    }

    /// Reads the lists as a connection would.
    fn revocation(&mut self, upstream: &Upstream, raw: &UpstreamSection) {
        let (Some(file), Some(_), None) = (&raw.crl_file, &upstream.ca_file, upstream.pin) else { return };
        if let Err(error @ TrustError::Lists { .. }) = Trust::new(upstream) {
            self.fault(Fault::new(error.to_string(), error.hint()), Some(file.span()));
        }
    }

    fn identity(&mut self, upstream: &Upstream, raw: &UpstreamSection) {
        let (Some(files), Some(cert)) = (&upstream.client, &raw.cert) else { return };
        if self.is_broken(&["key"]) {
            return;
        }
        if let Err(error) = Identity::read(files) {
            self.fault(Fault::new(error.to_string(), error.hint()), Some(cert.span()));
        }
    }

    fn server_name(&mut self, raw: &UpstreamSection) {
        let Some(name) = &raw.server_name else { return };
        if let Err(error) = tls::check_name(name.get_ref()) {
            let hint = "write a DNS name such as `pop.example.net`, or an address";
            self.fault(Fault::new(error.to_string(), hint), Some(name.span()));
        }
    }
}

/// The keys in use that are of no account without TLS.
fn tls_keys(raw: &UpstreamSection) -> impl Iterator<Item = (&'static str, Range<usize>)> {
    let keys = [
        ("crl_file", raw.crl_file.as_ref().map(Spanned::span)),
        ("pin", raw.pin.as_ref().map(Spanned::span)),
        ("accept", raw.accept.as_ref().map(Spanned::span)),
        ("cert", raw.cert.as_ref().map(Spanned::span)),
        ("key", raw.key.as_ref().map(Spanned::span)),
        ("server_name", raw.server_name.as_ref().map(Spanned::span)),
    ];
    keys.into_iter().filter_map(|(key, span)| Some((key, span?)))
}

fn weakness(fault: Accept) -> &'static str {
    match fault {
        Accept::Expired => {
            "certificates that have expired are accepted: whoever has got an old key can pose as the server (`accept`)"
        }
        Accept::SelfSigned => {
            "self-signed certificates are accepted: anybody on the way can make one and read passwords and mail (`accept`; \
             `pin` is safer)"
        }
        Accept::WrongName => {
            "certificates for other names are accepted: whoever is trusted for any name can pose as the server (`accept`; \
             `server_name` is safer)"
        }
    }
}
