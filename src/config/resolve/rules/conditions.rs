//! What has to hold: names and addresses that are to exist do.

use std::net::SocketAddr;

use ipnet::IpNet;
use toml::Spanned;

use crate::{
    config::{
        Listener, UpstreamUrl, When,
        address::{ListenAddress, Network},
        fault::Fault,
        reading::nearest,
        resolve::Resolver,
        rule::{OneOrMany, StageName, WhenSection},
    },
    pop3::Stage,
};

impl Resolver<'_> {
    pub(super) fn conditions(&mut self, raw: &WhenSection, listeners: &[Listener]) -> When {
        let commands = raw.command.iter().flat_map(|words| words.get_ref().as_slice());
        let messages = raw.message.iter().flat_map(|ranges| ranges.get_ref().as_slice());
        When {
            commands: commands.map(|word| word.as_str().as_bytes().into()).collect(),
            line: raw.line.as_ref().map(|line| line.get_ref().0.clone()),
            stage: raw.stage.as_ref().map(|stage| match stage.get_ref() {
                StageName::Authorization => Stage::Authorization,
                StageName::Transaction => Stage::Transaction,
            }),
            user: raw.user.as_ref().map(|user| user.get_ref().0.clone()),
            clients: raw.client.as_ref().map(|networks| self.clients(networks)).unwrap_or_default(),
            listeners: raw.listener.as_ref().map(|addresses| self.came_to(addresses, listeners)).unwrap_or_default(),
            upstreams: raw.upstream.as_ref().map(|names| self.carried_to(names, listeners)).unwrap_or_default(),
            tls: raw.tls,
            messages: messages.map(|range| range.0.clone()).collect(),
            size: raw.size.as_ref().map(|size| *size.get_ref()),
        }
    }

    fn clients(&mut self, networks: &Spanned<OneOrMany<Network>>) -> Vec<IpNet> {
        let mut found = Vec::new();
        for network in networks.get_ref().as_slice() {
            match network {
                Network::Of(network) => found.push(*network),
                Network::Any => {
                    let fault =
                        Fault::new("a condition that holds for any client is none", "name networks, or leave `client` out");
                    self.fault(fault, Some(networks.span()));
                }
            }
        }
        found
    }

    fn came_to(&mut self, addresses: &Spanned<OneOrMany<ListenAddress>>, listeners: &[Listener]) -> Vec<SocketAddr> {
        let wanted: Vec<SocketAddr> = addresses.get_ref().as_slice().iter().map(|address| address.address).collect();
        for address in &wanted {
            let exists = listeners.iter().any(|listener| listener.address == *address);
            if !exists && !self.are_listeners_broken(listeners) {
                let known = listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>().join("`, `");
                let fault = Fault::new(format!("there is no listener on {address}"), format!("there are `{known}`"));
                self.fault(fault, Some(addresses.span()));
            }
        }
        wanted
    }

    fn carried_to(&mut self, names: &Spanned<OneOrMany<String>>, listeners: &[Listener]) -> Vec<String> {
        let known = || listeners.iter().flat_map(Listener::all_upstreams);
        let mut found = Vec::new();
        for name in names.get_ref().as_slice() {
            let url: Option<UpstreamUrl> = name.parse().ok();
            match known().find(|upstream| upstream.name == *name || url.as_ref() == Some(&upstream.url())) {
                Some(upstream) => found.push(upstream.name.clone()),
                None if self.are_listeners_broken(listeners) => {}
                None => {
                    let hint = match nearest(name, known().map(|upstream| upstream.name.as_str())) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "name the `upstream` of a `[[listener]]`".to_owned(),
                    };
                    // A name may be a URL that holds a password.
                    self.fault(Fault::new("no listener leads to an upstream of this name", hint), Some(names.span()));
                }
            }
        }
        found
    }

    /// Whether something is missing from them that has been told of already.
    fn are_listeners_broken(&self, listeners: &[Listener]) -> bool {
        listeners.is_empty() || self.server_is_missed || self.is_broken(&["listener", "address", "upstream", "url", "name"])
    }
}
