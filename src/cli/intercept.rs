//! What the commands about transparent interception take.

use std::{num::NonZeroU16, path::PathBuf};

use clap::{Args, Subcommand};

use crate::config::{Argument, ListenAddress, Transparent};

pub(super) const EXAMPLES: &str = "\
Examples:
  poptap intercept show-rules --config /etc/poptap/poptap.toml --interface lan0
  poptap intercept show-rules --config poptap.toml --undo
  poptap intercept show-rules --transparent redirect --listen :1110 --port 110 --interface lan0
  poptap intercept show-rules --transparent redirect --listen 1110 --local poptap
  poptap intercept show-rules --transparent tproxy --listen :1110 --source-client | ssh root@router sh";

/// Leading connections here that are meant for others.
#[derive(Debug, Subcommand)]
pub enum InterceptCommand {
    /// Print the firewall's rules that lead clients to transparent listeners, ready to paste: for nftables and `ip`, as root.
    ///
    /// Nothing is changed. Printed is a script for `sh`; run again, it replaces what it made.
    #[command(after_help = EXAMPLES)]
    ShowRules(Box<ShowRulesArgs>),
}

/// What `intercept show-rules` takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowRulesArgs {
    /// The configuration file whose transparent listeners are meant.
    #[arg(short, long, value_name = "FILE", env = "POPTAP_CONFIG")]
    pub config: Option<PathBuf>,
    /// Without a file: how connections are led to the listeners of `--listen`.
    #[arg(long, value_name = "HOW", requires = "listen")]
    pub transparent: Option<Transparent>,
    /// Without a file: where poptap listens; may be given several times.
    #[arg(short, long, value_name = "ADDR", value_parser = Argument::<ListenAddress>::new(), requires = "transparent")]
    pub listen: Vec<ListenAddress>,
    /// Without a file: servers are dialled from the clients' addresses (`source = "client"`).
    #[arg(long, requires = "transparent")]
    pub source_client: bool,
    /// Only connections that come in there, such as lan0; may be given several times [default: all].
    #[arg(short, long, value_name = "NAME", value_parser = interface)]
    pub interface: Vec<String>,
    /// The ports that clients connect to; may be given several times [default: those of `destinations`, or 110, or 995 for TLS].
    #[arg(short, long, value_name = "N")]
    pub port: Vec<NonZeroU16>,
    /// This host's own connections too, but for those of the user that poptap runs as. Only by redirect.
    #[arg(long, value_name = "USER", value_parser = user)]
    pub local: Option<String>,
    /// The mark of packets that are for poptap, for TPROXY and `source = "client"`.
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub mark: u32,
    /// The number of the routing table for these.
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub table: u32,
    /// Print what takes it all back.
    #[arg(long)]
    pub undo: bool,
}

/// They go into a script, so nothing is let in that a shell or nftables could read otherwise.
fn interface(text: &str) -> Result<String, &'static str> {
    let fits = (1..=15).contains(&text.len());
    let plain = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_@*".contains(&octet));
    if fits && plain { Ok(text.to_owned()) } else { Err("an interface's name is up to 15 letters, digits, `.`, `-`, `_`") }
}

fn user(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet));
    if plain && (1..=32).contains(&text.len()) { Ok(text.to_owned()) } else { Err("this is not the name or number of a user") }
}
