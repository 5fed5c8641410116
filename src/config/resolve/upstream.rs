//! Mail servers: the `[[upstream]]` sections, the flags, and which of them a listener means.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use toml::Spanned;

use crate::config::{
    Accept, KeyPair, TlsMode, Upstream,
    address::UpstreamUrl,
    fault::{Fault, Malformed},
    file::{ListenerSection, UpstreamSection},
    reading::nearest,
};

use super::Resolver;

impl Resolver<'_> {
    /// Those of the file.
    pub(super) fn upstreams(&mut self, sections: &[Spanned<UpstreamSection>]) -> Vec<Arc<Upstream>> {
        if let Some(file) = &self.args.upstream_ca
            && let Some(fault) = unusable_ca(file)
        {
            self.fault(fault, None);
        }
        let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
        for section in sections {
            let Some(upstream) = self.upstream(section) else { continue };
            if upstreams.iter().any(|other| other.name == upstream.name) {
                let span = section.get_ref().name.as_ref().map_or_else(|| section.span(), Spanned::span);
                let message = format!("there are two upstreams `{}`", upstream.name);
                self.fault(Fault::new(message, "give each a `name` of its own"), Some(span));
            }
            upstreams.push(Arc::new(upstream));
        }
        upstreams
    }

    fn upstream(&mut self, section: &Spanned<UpstreamSection>) -> Option<Upstream> {
        let raw = section.get_ref();
        self.name(raw.name.as_ref());
        let unusable = raw.ca_file.as_ref().and_then(|file| Some((unusable_ca(file.get_ref())?, file.span())));
        let is_ca_usable = unusable.is_none() && self.args.upstream_ca.as_deref().is_none_or(|file| unusable_ca(file).is_none());
        if let Some((fault, span)) = unusable {
            self.fault(fault, Some(span));
        }
        let Some(url) = &raw.url else {
            self.server_is_missed = true;
            if !self.is_broken(&["url"]) {
                let fault = Fault::new("this upstream has no `url`", "add one, such as `url = \"pop3s://pop.example.net\"`");
                self.fault(fault, Some(section.span()));
            }
            return None;
        };
        let upstream = self.with_flags(url.get_ref(), raw);
        self.nameless(&upstream, Some(url.span()));
        self.trust(&upstream, raw, is_ca_usable);
        Some(upstream)
    }

    /// A certificate is for a name, and a path is none.
    pub(super) fn nameless(&mut self, upstream: &Upstream, span: Option<Range<usize>>) {
        let is_verified = upstream.tls != TlsMode::Plain && upstream.pin.is_none();
        if upstream.socket.is_some() && is_verified && upstream.server_name.is_none() && !self.is_broken(&["server_name", "pin"])
        {
            let message = format!("`{}` does not say for which name the server's certificate is", upstream.url());
            self.fault(Fault::new(message, "give the `[[upstream]]` a `server_name`, or a `pin`"), span);
        }
    }

    fn name(&mut self, name: Option<&Spanned<String>>) {
        let is_word = |name: &str| name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet));
        if let Some(name) = name.filter(|name| name.get_ref().is_empty() || !is_word(name.get_ref())) {
            let fault = Fault::new("this is not a name for an upstream", "use letters, digits, `.`, `-` and `_`");
            self.fault(fault, Some(name.span()));
        }
        if let Some(name) = name.filter(|name| name.get_ref() == Upstream::ORIGINAL) {
            let fault = Fault::new("`original` stands for the server that a client wanted to reach", "choose another name");
            self.fault(fault, Some(name.span()));
        }
    }

    fn with_flags(&self, url: &UpstreamUrl, raw: &UpstreamSection) -> Upstream {
        let ca_file: Option<&PathBuf> = self.args.upstream_ca.as_ref().or(raw.ca_file.as_ref().map(Spanned::get_ref));
        Upstream {
            name: raw.name.as_ref().map_or_else(|| url.to_string(), |name| name.get_ref().clone()),
            ca_file: ca_file.cloned(),
            crl_file: raw.crl_file.as_ref().map(|file| file.get_ref().clone()),
            pin: raw.pin.as_ref().map(|pin| *pin.get_ref()),
            accept: raw.accept.as_ref().map(|accept| each_once(accept.get_ref())).unwrap_or_default(),
            client: raw.cert.as_ref().map(|cert| {
                let key = raw.key.as_ref().unwrap_or(cert);
                KeyPair { cert: cert.get_ref().clone(), key: key.get_ref().clone() }
            }),
            server_name: raw.server_name.as_ref().map(|name| name.get_ref().clone()),
            proxy_protocol: raw.proxy_protocol.unwrap_or_default(),
            apop: self.args.apop.or(raw.apop).unwrap_or_default(),
            xclient: self.args.xclient.or(raw.xclient).unwrap_or_default(),
            ..Upstream::at(url)
        }
    }

    /// The one of the command line, for all listeners; those of the file with the same URL lend it their other settings.
    pub(super) fn upstream_of_flags(&mut self, upstreams: &[Arc<Upstream>]) -> Option<Arc<Upstream>> {
        let url = self.args.url.as_ref().or(self.args.upstream.as_ref())?;
        let upstream = self.by_url(url, upstreams);
        // Of those in the file it has been said.
        if !upstreams.contains(&upstream) {
            self.nameless(&upstream, None);
        }
        Some(upstream)
    }

    /// Those that a listener of the file means, in its order; none where one of them was found fault with.
    pub(super) fn upstreams_of(&mut self, section: &Spanned<ListenerSection>, upstreams: &[Arc<Upstream>]) -> Vec<Arc<Upstream>> {
        let Some(named) = &section.get_ref().upstream else {
            let is_unreadable = upstreams.len() != 1 && self.is_broken(&["upstream"]);
            return if is_unreadable { Vec::new() } else { self.only_upstream(upstreams, Some(section)) };
        };
        let mut found: Vec<Arc<Upstream>> = Vec::new();
        let mut is_whole = true;
        for name in named.get_ref().as_slice() {
            let fault = match self.by_reference(name, upstreams) {
                Ok(upstream) if found.contains(&upstream) => {
                    Fault::new(format!("`{}` is named twice", upstream.name), "name each upstream once: they are tried in order")
                }
                Ok(upstream) => {
                    if !upstreams.contains(&upstream) {
                        self.nameless(&upstream, Some(named.span()));
                    }
                    found.push(upstream);
                    continue;
                }
                Err(fault) => fault,
            };
            is_whole = false;
            let known_is_broken = self.is_broken(&["name"]) && !name.contains(['@', ':']);
            if !known_is_broken {
                self.fault(fault, Some(named.span()));
            }
        }
        if is_whole { found } else { Vec::new() }
    }

    /// The only one there is, for a listener that names none.
    pub(super) fn only_upstream(
        &mut self,
        upstreams: &[Arc<Upstream>],
        section: Option<&Spanned<ListenerSection>>,
    ) -> Vec<Arc<Upstream>> {
        let fault = match upstreams {
            [only] => return vec![Arc::clone(only)],
            [] if self.server_is_missed || self.is_broken(&["upstream", "url"]) => return Vec::new(),
            [] => Fault::new(
                "there is no mail server to reach",
                "give its URL, such as `poptap run pop3s://pop.example.net`, or an `[[upstream]]` section in the file",
            ),
            [first, ..] => Fault::new(
                "this listener does not say which upstream it means",
                format!("add a line such as `upstream = \"{}\"`, or `--upstream URL`", first.name),
            ),
        };
        self.server_is_missed |= upstreams.is_empty();
        self.fault(fault, section.map(Spanned::span));
        Vec::new()
    }

    pub(super) fn by_reference(&self, reference: &str, upstreams: &[Arc<Upstream>]) -> Result<Arc<Upstream>, Fault> {
        if let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == reference) {
            return Ok(Arc::clone(upstream));
        }
        let parsed: Result<UpstreamUrl, Malformed> = reference.parse();
        match parsed {
            Ok(url) => Ok(self.by_url(&url, upstreams)),
            Err(malformed) if reference.contains(['@', ':']) => Err(malformed.into()),
            Err(malformed) => {
                let hint = match nearest(reference, upstreams.iter().map(|upstream| upstream.name.as_str())) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("name an `[[upstream]]`, or {}", malformed.hint),
                };
                Err(Fault::new(format!("no upstream is named `{reference}`"), hint))
            }
        }
    }

    fn by_url(&self, url: &UpstreamUrl, upstreams: &[Arc<Upstream>]) -> Arc<Upstream> {
        let same = upstreams.iter().find(|upstream| upstream.url() == *url);
        same.map_or_else(|| Arc::new(self.with_flags(url, &UpstreamSection::default())), Arc::clone)
    }
}

fn each_once(accept: &[Accept]) -> Vec<Accept> {
    let each: BTreeSet<_> = accept.iter().copied().collect();
    each.into_iter().collect()
}

/// Why a file of certificates cannot be used.
fn unusable_ca(file: &Path) -> Option<Fault> {
    let shown = file.display();
    let unreadable = |error: &dyn std::fmt::Display| {
        Fault::new(format!("cannot read certificates from `{shown}`: {error}"), "name a PEM file with the certificates to trust")
    };
    let certificates = match CertificateDer::pem_file_iter(file) {
        Ok(found) => found.collect::<Result<Vec<_>, _>>(),
        Err(rustls::pki_types::pem::Error::Io(error)) => return Some(unreadable(&error)),
        Err(error) => return Some(unreadable(&error)),
    };
    match certificates {
        Ok(found) if found.is_empty() => Some(Fault::new(
            format!("there is no certificate in `{shown}`"),
            "a certificate in PEM form begins with `-----BEGIN CERTIFICATE-----`",
        )),
        Ok(found) => {
            let broken = found.iter().position(|certificate| x509_parser::parse_x509_certificate(certificate).is_err())?;
            Some(Fault::new(format!("certificate {} in `{shown}` is damaged", broken + 1), "export it again, in PEM form"))
        }
        Err(error) => Some(unreadable(&error)),
    }
}
