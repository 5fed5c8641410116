//! What is served over HTTP: on loopback, unless somebody says who else may come.

use std::net::SocketAddr;

use crate::config::{
    AllowFrom, MetricsEndpoint, Network, PageEndpoint,
    fault::Fault,
    http::{MetricsSection, WebSection},
};

use super::{Resolver, listener};

impl Resolver<'_> {
    pub(super) fn metrics(&mut self, section: &MetricsSection) -> Option<MetricsEndpoint> {
        let flags = &self.args.http;
        let in_file = section.listen.as_ref();
        let allowed = if flags.metrics_allow_from.is_empty() {
            section.allow_from.clone().unwrap_or_default()
        } else {
            flags.metrics_allow_from.clone()
        };
        let address = flags.metrics.or(in_file.map(|listen| *listen.get_ref()))?.0;
        if allowed.is_empty() && !listener::is_loopback(address.ip()) && !self.is_broken(&["allow_from"]) {
            let hint = "say who may ask with `--metrics-allow-from 192.0.2.0/24` or `allow_from` under `[metrics]`, or listen on \
                        127.0.0.1";
            let span = in_file.filter(|_| flags.metrics.is_none()).map(toml::Spanned::span);
            self.fault(Fault::new(format!("the counts on {address} would be there for everybody"), hint), span);
        }
        Some(MetricsEndpoint { address, allow_from: allow_from(&allowed) })
    }

    pub(super) fn page(&mut self, section: &WebSection) -> Option<PageEndpoint> {
        let flags = &self.args.http;
        let in_file = section.listen.as_ref();
        let allow_remote = flags.web_allow_remote || section.allow_remote.unwrap_or_default();
        let address = flags.web.or(in_file.map(|listen| *listen.get_ref()))?.0;
        let span = in_file.filter(|_| flags.web.is_none()).map(toml::Spanned::span);
        if listener::is_loopback(address.ip()) {
            return Some(PageEndpoint { address, allow_remote });
        }
        if allow_remote {
            self.warnings.push(reachable(address));
        } else {
            let hint = "listen on 127.0.0.1, and forward the port with ssh; or say `--web-allow-remote`";
            self.fault(Fault::new(format!("the live page on {address} could be reached from other hosts"), hint), span);
        }
        Some(PageEndpoint { address, allow_remote })
    }
}

fn reachable(address: SocketAddr) -> String {
    format!(
        "the live page on {address} is for everybody who has its token, and that crosses the network without encryption, as do \
         the sessions that it shows"
    )
}

fn allow_from(allowed: &[Network]) -> AllowFrom {
    if allowed.is_empty() {
        return AllowFrom::Loopback;
    }
    if allowed.iter().any(listener::is_everybody) {
        return AllowFrom::Any;
    }
    let networks = allowed.iter().filter_map(|network| match network {
        Network::Of(network) => Some(*network),
        Network::Any => None,
    });
    AllowFrom::Networks(networks.collect())
}
