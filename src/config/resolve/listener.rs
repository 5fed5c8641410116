//! Listeners: where clients are accepted, who may come, and which server they reach.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use ipnet::IpNet;
use toml::Spanned;

use crate::config::{
    AllowFrom, ListenPlace, Listener, Table, TlsMode, Upstream, address::Network, fault::Fault, file::ListenerSection,
};

use super::{Resolver, intercept::names_original, routing::is_routed};

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, sections: &[Spanned<ListenerSection>], upstreams: &[Arc<Upstream>]) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = Vec::new();
        for (place, section) in self.addresses(sections) {
            let span = address_span(section);
            let Some((address, handed_over)) = self.located(&place, &listeners, span.clone()) else { continue };
            if address.address.port() != 0 && listeners.iter().any(|other| other.address == address.address) {
                let message = format!("two listeners have the address {}", address.address);
                self.fault(Fault::new(message, "give each its own, or leave one out"), span.clone());
            }
            let interception = self.interception(section, upstreams);
            let table = interception.as_ref().and_then(|interception| interception.table.as_ref());
            let reached = match (self.upstream_of_flags(upstreams), section) {
                (Some(upstream), _) => vec![upstream],
                (None, Some(section)) if names_original(section.get_ref()) => table.map(Table::upstreams).unwrap_or_default(),
                (None, Some(section)) if is_routed(section) && section.get_ref().upstream.is_none() => Vec::new(),
                (None, Some(section)) => self.upstreams_of(section, upstreams),
                (None, None) => self.only_upstream(upstreams, None),
            };
            let raw = section.map(Spanned::get_ref);
            let demand = self.demand(address, raw, span.clone());
            let may_be_plain = address.tls.may_be_plain(demand);
            let server_tls = self.server_tls(address, section, span.clone());
            let proxy_from = self.proxy_from(raw);
            let reach = Reach { address: address.address, may_be_plain, proxied: !proxy_from.is_empty() };
            let allow_from = self.allow_from(reach, raw.and_then(|raw| raw.allow_from.as_deref()), span);
            let deny_from = self.deny_from(raw);
            let socket = self.socket(address.address, raw);
            let stls = self.args.stls.or(raw.and_then(|raw| raw.stls)).unwrap_or_default();
            let routing = self.routing(section, upstreams);
            if !reached.is_empty() || routing.is_some() {
                let source = self.source(section);
                let listener = Listener {
                    address: address.address,
                    handed_over,
                    upstreams: reached,
                    allow_from,
                    deny_from,
                    proxy_from,
                    socket,
                    stls,
                    tls: address.tls,
                    demand,
                    server_tls,
                    routing,
                    interception,
                    source,
                };
                self.carries_unread(&listener, section);
                listeners.push(listener);
            }
        }
        self.warn_of_unused(upstreams, &listeners);
        self.useless_certificate(&listeners);
        listeners
    }

    fn useless_certificate(&mut self, listeners: &[Listener]) {
        let is_used = listeners.is_empty() || listeners.iter().any(|listener| listener.tls != TlsMode::Plain);
        if self.args.cert.is_some() && !is_used {
            let hint = "listen with `--listen pop3s://ADDR:PORT` (TLS) or `--listen pop3+stls://ADDR:PORT` (STLS)";
            self.fault(Fault::new("`--cert` is of no use: every listener is plain", hint), None);
        }
    }

    fn warn_of_unused(&mut self, upstreams: &[Arc<Upstream>], listeners: &[Listener]) {
        let leads_to = |listener: &Listener, one: &Arc<_>| listener.all_upstreams().any(|upstream| Arc::ptr_eq(upstream, one));
        let is_used = |upstream: &Arc<Upstream>| listeners.iter().any(|listener| leads_to(listener, upstream));
        for unused in upstreams.iter().filter(|upstream| !is_used(upstream)) {
            self.warnings.push(format!("no listener leads to the upstream `{}`", unused.name));
        }
    }

    /// The addresses, each with the section that it takes its other settings from.
    fn addresses<'s>(
        &mut self,
        sections: &'s [Spanned<ListenerSection>],
    ) -> Vec<(ListenPlace, Option<&'s Spanned<ListenerSection>>)> {
        if self.args.listen.is_empty() {
            return match sections {
                [] => vec![(ListenPlace::DEFAULT, None)],
                _ => sections.iter().filter_map(|section| Some((self.address(section)?, Some(section)))).collect(),
            };
        }
        if let [_, second, ..] = sections {
            let message = format!("`--listen` cannot replace {} listeners: it is unclear whose settings hold", sections.len());
            self.fault(Fault::new(message, "leave one `[[listener]]` in the file, or leave out `--listen`"), Some(second.span()));
        }
        self.args.listen.iter().map(|place| (place.clone(), sections.first())).collect()
    }

    fn address(&mut self, section: &Spanned<ListenerSection>) -> Option<ListenPlace> {
        match &section.get_ref().address {
            Some(place) => Some(place.get_ref().clone()),
            None if self.is_broken(&["address"]) => None,
            None => Some(ListenPlace::DEFAULT),
        }
    }

    /// Where a login may be plain and come from elsewhere, that needs somebody's word for it.
    fn allow_from(&mut self, reach: Reach, in_file: Option<&[Network]>, span: Option<Range<usize>>) -> AllowFrom {
        let Reach { address, may_be_plain, proxied } = reach;
        let flags = Some(self.args.allow_from.as_slice()).filter(|flags| !flags.is_empty());
        let allowed = flags.or(in_file).unwrap_or_default();
        let everywhere = proxied || !is_loopback(address.ip());
        if allowed.is_empty() {
            if everywhere && !may_be_plain {
                return AllowFrom::Any;
            }
            if everywhere && !self.is_broken(&["allow_from"]) {
                let message = format!("the listener {address} would let everybody log in without encryption");
                let hint = if proxied { PROXIED_HINT } else { LISTENER_HINT };
                self.fault(Fault::new(message, hint), span);
            }
            return AllowFrom::Loopback;
        }
        if allowed.iter().any(is_everybody) {
            if everywhere && may_be_plain {
                let way = if proxied { "come from its proxies" } else { "cross the network" };
                self.warnings.push(format!("the listener {address} lets everybody in, and logins {way} without encryption"));
            }
            return AllowFrom::Any;
        }
        AllowFrom::Networks(named(allowed))
    }
}

/// Where a listener is, and how one gets there.
#[derive(Clone, Copy)]
struct Reach {
    address: SocketAddr,
    may_be_plain: bool,
    /// Its clients are announced by proxies, and may be anywhere.
    proxied: bool,
}

const LISTENER_HINT: &str = "say who may come with `--allow-from 192.0.2.0/24` or `allow_from = [\"192.0.2.0/24\"]`, listen on \
                             127.0.0.1, or require TLS: `pop3s://`, or `pop3+stls://` and `--require-tls`";
const PROXIED_HINT: &str = "say which of the proxies' clients may come with `allow_from = [\"192.0.2.0/24\"]`; `allow_from = [\"any\"]` \
                            where the proxies speak TLS with them";

impl Resolver<'_> {
    /// Whoever is let in here can claim to be anybody.
    fn proxy_from(&mut self, section: Option<&ListenerSection>) -> Vec<IpNet> {
        let Some(proxies) = section.and_then(|section| section.proxy_from.as_ref()) else { return Vec::new() };
        if proxies.get_ref().iter().any(is_everybody) {
            let fault = Fault::new("`proxy_from` would let everybody claim any address", "name the proxies' own addresses");
            self.fault(fault, Some(proxies.span()));
        }
        named(proxies.get_ref())
    }

    /// Everybody can be turned away without a listener.
    fn deny_from(&mut self, section: Option<&ListenerSection>) -> Vec<IpNet> {
        let Some(denied) = section.and_then(|section| section.deny_from.as_ref()) else { return Vec::new() };
        self.networks(denied, || Fault::new("`deny_from` would turn everybody away", "name networks, or leave the listener out"))
    }

    /// The networks of a list in which `any` makes no sense.
    pub(super) fn networks(&mut self, list: &Spanned<Vec<Network>>, on_any: impl Fn() -> Fault) -> Vec<IpNet> {
        if list.get_ref().contains(&Network::Any) {
            self.fault(on_any(), Some(list.span()));
        }
        named(list.get_ref())
    }
}

/// The networks of a list without `any`.
fn named(list: &[Network]) -> Vec<IpNet> {
    let networks = list.iter().filter_map(|network| match network {
        Network::Of(network) => Some(*network),
        Network::Any => None,
    });
    networks.collect()
}

fn address_span(section: Option<&Spanned<ListenerSection>>) -> Option<Range<usize>> {
    section.map(|section| section.get_ref().address.as_ref().map_or_else(|| section.span(), Spanned::span))
}

pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

pub(super) fn is_everybody(network: &Network) -> bool {
    match network {
        Network::Any => true,
        Network::Of(network) => network.prefix_len() == 0,
    }
}
