//! What `run` and `check` take about what is served over HTTP.

use clap::Args;

use crate::config::{Argument, HttpAddress, Network};

/// The live page, and counts.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct HttpArgs {
    /// Serve a page that shows sessions as they happen: `PORT` for loopback, or `ADDR:PORT`. Its address is printed, with a token.
    #[arg(long, value_name = "ADDR", value_parser = Argument::<HttpAddress>::new(), help_heading = "Watching")]
    pub web: Option<HttpAddress>,
    /// Let other hosts look at the page, too, where it listens on an address that they reach. Think twice.
    #[arg(long, help_heading = "Watching")]
    pub web_allow_remote: bool,
    /// Serve counts for a monitoring system (`/metrics`, `/healthz`, `/readyz`): `PORT` for loopback, or `ADDR:PORT`.
    #[arg(long, value_name = "ADDR", value_parser = Argument::<HttpAddress>::new(), help_heading = "Watching")]
    pub metrics: Option<HttpAddress>,
    /// Who may ask for them besides this host: a network, or `any`; may be given several times.
    #[arg(long, value_name = "CIDR|any", value_parser = Argument::<Network>::new(), help_heading = "Watching")]
    pub metrics_allow_from: Vec<Network>,
}
