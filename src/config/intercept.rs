//! Clients that know nothing of poptap: whose connections the system leads here, and where those wanted to go.

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc};

use clap::ValueEnum;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Network, Upstream};

/// How connections are led to a listener that they were not meant for. Linux only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transparent {
    /// By NAT (`redirect` in nftables): the system remembers the destination.
    Redirect,
    /// By TPROXY: the destination is this side's address of the connection. Needs `CAP_NET_ADMIN`.
    Tproxy,
}

/// What a connection to the server comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// This host's own address.
    #[default]
    Own,
    /// The client's address, with a port of the system's choice. Linux only; needs `CAP_NET_ADMIN`, and that the server's
    /// answers come back through this host.
    Client,
}

/// Which address is dialled for a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dial {
    /// That of the upstream's URL.
    #[default]
    Upstream,
    /// The one that the client wanted to reach. The upstream's URL says how the hop is protected, and which name is verified.
    Original,
}

/// What becomes of a destination without an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// The client is turned away.
    #[default]
    Refuse,
    /// It is dialled, and nothing is added: no TLS of poptap's.
    Plain,
}

/// What a listener needs to know of connections that were meant for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// How they are led here.
    pub how: Transparent,
    /// The only networks that they may be meant for; all, where there is none.
    pub allow_to: Vec<IpNet>,
    /// Where they are carried to, which depends on that; `None` where all have the same upstreams.
    pub table: Option<Table>,
}

/// Where clients are carried to, by whom they wanted to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The first that fits holds.
    pub destinations: Vec<Destination>,
    /// What holds where none does.
    pub otherwise: Otherwise,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The addresses that it is for.
    pub to: Network,
    /// The port that it is for; `None` for all.
    pub port: Option<NonZeroU16>,
    /// The mail server, or how it is spoken with.
    pub upstream: Arc<Upstream>,
    /// Which address is dialled.
    pub dial: Dial,
}

impl Interception {
    /// Whether connections to that address are taken.
    #[must_use]
    pub fn allows(&self, destination: SocketAddr) -> bool {
        let ip = destination.ip().to_canonical();
        self.allow_to.is_empty() || self.allow_to.iter().any(|network| network.contains(&ip))
    }
}

impl Table {
    /// The place of the entry for a destination.
    #[must_use]
    pub fn find(&self, destination: SocketAddr) -> Option<usize> {
        self.destinations.iter().position(|entry| entry.fits(destination))
    }

    /// Every upstream that it leads to, once.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
        for Destination { upstream, .. } in &self.destinations {
            if !upstreams.contains(upstream) {
                upstreams.push(Arc::clone(upstream));
            }
        }
        if self.otherwise == Otherwise::Plain {
            upstreams.push(Arc::new(Upstream::original()));
        }
        upstreams
    }
}

impl Destination {
    fn fits(&self, destination: SocketAddr) -> bool {
        let ip = destination.ip().to_canonical();
        let is_there = match self.to {
            Network::Any => true,
            Network::Of(network) => network.contains(&ip),
        };
        is_there && self.port.is_none_or(|port| port.get() == destination.port())
    }
}

impl Upstream {
    /// What a listener's `upstream` says to have clients carried to whom they wanted to reach.
    pub const ORIGINAL: &str = "original";

    /// Stands for every server that is dialled because the client wanted to reach it, and for no other reason.
    #[must_use]
    pub fn original() -> Self {
        let url = super::UpstreamUrl { tls: super::TlsMode::Plain, host: Self::ORIGINAL.to_owned(), port: 110, socket: None };
        Self { name: Self::ORIGINAL.to_owned(), ..Self::at(&url) }
    }

    /// Whether it stands for those.
    #[must_use]
    pub fn is_original(&self) -> bool {
        self.name == Self::ORIGINAL
    }
}

/// Where clients are carried to that wanted to reach some address.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationSection {
    /// The address or network, or `any`.
    pub(super) to: Network,
    /// The port; all, when it is left out.
    pub(super) port: Option<NonZeroU16>,
    /// The name of an `[[upstream]]`, or a URL.
    #[schemars(with = "String")]
    pub(super) upstream: Spanned<String>,
    /// Whether the upstream's own address is dialled, or the one that the client wanted to reach.
    pub(super) dial: Option<Dial>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(to: &str, port: Option<u16>) -> Destination {
        let upstream = Arc::new(Upstream::at(&"pop3://192.0.2.1".parse().unwrap()));
        Destination { to: to.parse().unwrap(), port: port.and_then(NonZeroU16::new), upstream, dial: Dial::Upstream }
    }

    #[test]
    fn the_first_entry_that_fits_holds() {
        let destinations = vec![
            entry("192.0.2.7", Some(110)),
            entry("192.0.2.0/24", None),
            entry("2001:db8::/32", None),
            entry("any", Some(995)),
        ];
        let table = Table { destinations, otherwise: Otherwise::Refuse };
        for (destination, found) in [
            ("192.0.2.7:110", Some(0)),
            ("[::ffff:192.0.2.7]:110", Some(0)),
            ("192.0.2.7:995", Some(1)),
            ("[2001:db8::1]:110", Some(2)),
            ("198.51.100.1:995", Some(3)),
            ("198.51.100.1:110", None),
        ] {
            assert_eq!(table.find(destination.parse().unwrap()), found, "{destination}");
        }
    }

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let allow_to = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let some = Interception { how: Transparent::Redirect, allow_to, table: None };
        let all = Interception { allow_to: Vec::new(), ..some.clone() };
        for (destination, allowed) in
            [("192.0.2.7:110", true), ("[::ffff:192.0.2.7]:110", true), ("[2001:db8::1]:1", true), ("198.51.100.1:110", false)]
        {
            let destination = destination.parse().unwrap();
            assert_eq!((some.allows(destination), all.allows(destination)), (allowed, true), "{destination}");
        }
    }
}
