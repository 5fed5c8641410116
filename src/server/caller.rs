//! Who has connected.

use std::net::SocketAddr;

use super::canonical;
use crate::record::schema;

/// The client of a connection. Its address is the one that counts: in transcripts, rules, limits, logs, and towards the server.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The client's address: the one that a proxy announced, or else the connection's.
    pub(crate) address: SocketAddr,
    /// The address that it connected to, where a proxy said so; else it is the connection's.
    pub(crate) destination: Option<SocketAddr>,
    /// The proxy that announced it.
    pub(crate) proxy: Option<SocketAddr>,
    /// What a header said, for the transcript.
    pub(crate) said: Option<Box<schema::Announced>>,
}

impl Caller {
    /// At the other end of the connection itself.
    pub(crate) fn direct(address: SocketAddr) -> Self {
        Self { address: canonical(address), destination: None, proxy: None, said: None }
    }

    /// Behind `proxy`, which said so; where it named nobody, the proxy itself.
    pub(crate) fn announced(proxy: SocketAddr, addresses: Option<(SocketAddr, SocketAddr)>, said: schema::Announced) -> Self {
        let said = Some(Box::new(said));
        match addresses {
            Some((client, destination)) => {
                let (destination, proxy) = (Some(canonical(destination)), Some(canonical(proxy)));
                Self { address: canonical(client), destination, proxy, said }
            }
            None => Self { said, ..Self::direct(proxy) },
        }
    }

    /// Whether it is a proxy that speaks for itself, as with a health check: version 1 has no word for that, and names the
    /// connection's own address.
    pub(crate) fn is_the_proxy(&self) -> bool {
        self.said.is_some() && self.proxy.is_none_or(|proxy| proxy == self.address)
    }

    /// Without what only the beginning of a session needs.
    pub(crate) fn settled(self) -> Self {
        Self { said: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_speaks_for_itself_without_a_name_and_with_its_own() {
        let (proxy, to) = ("198.51.100.4:40000".parse().unwrap(), "198.51.100.9:110".parse().unwrap());
        for (named, expected) in [
            (None, true),
            (Some("198.51.100.4:40000"), true),
            (Some("198.51.100.4:40001"), false),
            (Some("192.0.2.1:40000"), false),
        ] {
            let addresses = named.map(|client| (client.parse().unwrap(), to));
            assert_eq!(Caller::announced(proxy, addresses, schema::Announced::default()).is_the_proxy(), expected, "{named:?}");
        }
        assert!(!Caller::direct(proxy).is_the_proxy());
    }
}
