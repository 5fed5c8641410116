//! Listeners that take connections which were meant for others, and those that carry TLS unread.

use std::sync::Arc;

use toml::Spanned;

use crate::config::{
    Destination, Interception, Listener, Otherwise, Rule, Source, Table, TlsDemand, TlsMode, Upstream, fault::Fault,
    file::ListenerSection, intercept::DestinationSection,
};

use super::Resolver;

impl Resolver<'_> {
    /// What a listener has to know of connections that were meant for others; `None` where it takes none.
    pub(super) fn interception(
        &mut self,
        section: Option<&Spanned<ListenerSection>>,
        upstreams: &[Arc<Upstream>],
    ) -> Option<Interception> {
        let raw = section?.get_ref();
        let Some(how) = &raw.transparent else {
            self.useless_without_transparent(raw);
            return None;
        };
        if !cfg!(target_os = "linux") {
            self.fault(Fault::new("only Linux leads connections here", "leave `transparent` out"), Some(how.span()));
        }
        if let Some(proxies) = &raw.proxy_from {
            let fault =
                Fault::new("a proxy's connections are meant for this listener", "leave `transparent` or `proxy_from` out");
            self.fault(fault, Some(proxies.span()));
        }
        let allow_to = raw.allow_to.as_ref().map(|list| {
            self.networks(list, || Fault::new("`allow_to` would allow every destination", "name networks, or leave it out"))
        });
        Some(Interception { how: *how.get_ref(), allow_to: allow_to.unwrap_or_default(), table: self.table(raw, upstreams) })
    }

    /// Where a server of the flags is for everybody, there is no table.
    fn table(&mut self, raw: &ListenerSection, upstreams: &[Arc<Upstream>]) -> Option<Table> {
        if !names_original(raw) {
            let span = raw.destinations.as_ref().map(Spanned::span).or(raw.otherwise.as_ref().map(Spanned::span));
            if let Some(span) = span {
                let message = "every client of this listener is carried to the same upstream, whatever its destination";
                self.fault(Fault::new(message, "write `upstream = \"original\"`, or leave this out"), Some(span));
            }
            return None;
        }
        if self.args.url.is_some() || self.args.upstream.is_some() {
            return None;
        }
        let entries = raw.destinations.as_ref().map(Spanned::get_ref).map(Vec::as_slice).unwrap_or_default();
        let destinations = entries.iter().filter_map(|entry| self.destination(entry, upstreams)).collect();
        let otherwise = raw.otherwise.as_ref().map(|otherwise| *otherwise.get_ref()).unwrap_or_default();
        if entries.is_empty() && otherwise == Otherwise::Refuse && !self.is_broken(&["destinations", "otherwise"]) {
            let hint = "add entries, such as `destinations = [{ to = \"192.0.2.0/24\", upstream = \"pop3s://pop.example.net\" }]`, or \
                        `otherwise = \"plain\"`, which dials every destination and adds no TLS";
            self.fault(Fault::new("this listener would refuse every destination", hint), original_span(raw));
        }
        Some(Table { destinations, otherwise })
    }

    fn destination(&mut self, entry: &DestinationSection, upstreams: &[Arc<Upstream>]) -> Option<Destination> {
        match self.by_reference(entry.upstream.get_ref(), upstreams) {
            Ok(upstream) => Some(Destination { to: entry.to, port: entry.port, upstream, dial: entry.dial.unwrap_or_default() }),
            Err(fault) => {
                self.fault(fault, Some(entry.upstream.span()));
                None
            }
        }
    }

    fn useless_without_transparent(&mut self, raw: &ListenerSection) {
        if self.is_broken(&["transparent"]) {
            return;
        }
        let given = [
            ("destinations", raw.destinations.as_ref().map(Spanned::span)),
            ("otherwise", raw.otherwise.as_ref().map(Spanned::span)),
            ("allow_to", raw.allow_to.as_ref().map(Spanned::span)),
            ("upstream = \"original\"", original_span(raw)),
        ];
        for (key, span) in given {
            if span.is_some() {
                let message = format!("`{key}` is for listeners whose clients wanted to reach others");
                self.fault(Fault::new(message, "add `transparent = \"redirect\"` or `transparent = \"tproxy\"`"), span);
            }
        }
    }

    /// What servers of this listener's clients are dialled from.
    pub(super) fn source(&mut self, section: Option<&Spanned<ListenerSection>>) -> Source {
        let Some(source) = section.and_then(|section| section.get_ref().source.as_ref()) else { return Source::Own };
        if *source.get_ref() == Source::Client && !cfg!(target_os = "linux") {
            self.fault(Fault::new("only Linux can use the clients' addresses", "leave `source` out"), Some(source.span()));
        }
        *source.get_ref()
    }

    /// TLS that is carried unread has to be there on the server's side, and poptap adds none.
    pub(super) fn carries_unread(&mut self, listener: &Listener, section: Option<&Spanned<ListenerSection>>) {
        if listener.demand != TlsDemand::Pass {
            return;
        }
        let span = section.map(Spanned::span);
        if listener.tls != TlsMode::Plain {
            let message = format!("the listener {} cannot both end TLS and carry it unread", listener.address);
            let hint = format!("write `address = \"{}\"` without a scheme, or leave `tls = \"pass\"` out", listener.address);
            self.fault(Fault::new(message, hint), span.clone());
        }
        let unfit = |upstream: &&Arc<Upstream>| upstream.tls != TlsMode::Implicit && !upstream.is_original();
        if let Some(upstream) = listener.upstreams.iter().find(unfit) {
            let message = format!("TLS that is carried unread cannot go to `{}`, which does not begin with TLS", upstream.name);
            self.fault(Fault::new(message, "write its URL with `pop3s://`, or leave `tls = \"pass\"` out"), span);
        }
    }

    /// What is not read cannot be judged.
    pub(super) fn warn_of_unread(&mut self, rules: &[Rule], listeners: &[Listener]) {
        if rules.is_empty() {
            return;
        }
        for listener in listeners.iter().filter(|listener| listener.demand == TlsDemand::Pass) {
            let address = listener.address;
            self.warnings.push(format!("no rule holds on the listener {address}: it carries TLS unread (`tls = \"pass\"`)"));
        }
    }
}

/// Whether clients are carried to whom they wanted to reach.
pub(super) fn names_original(raw: &ListenerSection) -> bool {
    original_span(raw).is_some()
}

fn original_span(raw: &ListenerSection) -> Option<std::ops::Range<usize>> {
    raw.upstream.as_ref().filter(|upstream| upstream.get_ref().as_slice() == [Upstream::ORIGINAL]).map(Spanned::span)
}
