//! What is served over HTTP beside the proxy: counts for a monitoring system, and the live page.

use std::{fmt, net::SocketAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{AllowFrom, ListenAddress, Network, TlsMode, fault::Malformed};

/// Where counts are served, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsEndpoint {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Who may ask. This host's own clients always may.
    pub allow_from: AllowFrom,
}

/// Where the live page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEndpoint {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Whether others than this host's own clients may look, with the token.
    pub allow_remote: bool,
}

/// Where to listen for HTTP: `ADDR:PORT`, `[v6]:PORT`, `PORT` (loopback), `:PORT` (all interfaces). There is no TLS on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpAddress(
    /// The address; port 0 lets the system choose.
    pub SocketAddr,
);

impl FromStr for HttpAddress {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let place = text.strip_prefix("http://").map_or(text, |rest| rest.strip_suffix('/').unwrap_or(rest));
        let ListenAddress { tls, address } = place.parse()?;
        if tls != TlsMode::Plain || place.contains("://") {
            let message = format!("`{text}` is not an address for HTTP");
            return Err(Malformed::new(message, "write `ADDR:PORT`, `PORT` for loopback, or `:PORT` for all interfaces"));
        }
        Ok(Self(address))
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Counts for a monitoring system.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsSection {
    /// Where they are served; nowhere when it is left out.
    #[schemars(with = "Option<HttpAddress>")]
    pub(super) listen: Option<Spanned<HttpAddress>>,
    /// Who may ask besides this host's own clients: networks, or `any`.
    pub(super) allow_from: Option<Vec<Network>>,
}

/// The live page.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebSection {
    /// Where it is served; nowhere when it is left out.
    #[schemars(with = "Option<HttpAddress>")]
    pub(super) listen: Option<Spanned<HttpAddress>>,
    /// Whether others than this host's own clients may look, with the token.
    pub(super) allow_remote: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_http() {
        for (text, expected) in [
            ("9110", "127.0.0.1:9110"),
            (":9110", "[::]:9110"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("http://127.0.0.1:8110/", "127.0.0.1:8110"),
        ] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), expected, "{text}");
        }
        for text in ["pop3s://:995", "pop3://1110", "http://pop3://1110", "https://127.0.0.1:1", "localhost:80", ""] {
            assert!(text.parse::<HttpAddress>().is_err(), "{text}");
        }
    }
}
