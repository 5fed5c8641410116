//! What `sessions diff` and `replay` take.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::StoreArgs;
use crate::{
    config::{Argument, ListenAddress, Period, Size},
    inspect::Timing,
};

/// What `sessions diff` takes.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// A session's id, or the beginning of it.
    #[arg(value_name = "A")]
    pub one: String,
    /// The id of the session that it is compared with.
    #[arg(value_name = "B")]
    pub other: String,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Compare everything: numbers, times and ids inside of replies, the order of capabilities, when certificates end.
    #[arg(long)]
    pub exact: bool,
    /// Count latencies, too, where one is so many per cent longer, and by 100 ms at least; or tell nothing of them: `none`.
    ///
    /// Without it those that are twice as long are told of, and make no difference.
    #[arg(long, value_name = "PERCENT|none", value_parser = timing)]
    pub timing: Option<Timing>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn timing(text: &str) -> Result<Timing, String> {
    match text.trim_end_matches('%').parse() {
        _ if text == "none" => Ok(Timing::Ignored),
        Ok(percent) => Ok(Timing::Counts(percent)),
        Err(_) => Err("it is a number of per cent, such as 50, or `none`".to_owned()),
    }
}

const EXAMPLES: &str = "\
Examples:
  poptap replay --as-server 7k2
      plays what the server said in this session to whoever connects to 127.0.0.1:1110, until Ctrl-C
  poptap replay --as-server --last --listen 0 --timing fast --once
      plays the last session once, as fast as it can, on a port that the system chooses
  poptap replay --as-server 7k2 --listen pop3s://1995 --self-signed replay.pem
      plays it inside TLS: curl --cacert replay.pem pop3s://localhost:1995/";

/// What `replay` takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// Play the server's side of this session: its id, or the beginning of it.
    #[arg(long, value_name = "SESSION", num_args = 0..=1, required = true)]
    #[allow(clippy::option_option, reason = "clap's way to say that the value may be left out")]
    pub as_server: Option<Option<String>>,
    /// The session that was opened last, in place of an id.
    #[arg(long)]
    pub last: bool,
    /// Where to listen: `ADDR:PORT` or `PORT`, on loopback only. Port 0 lets the system choose; the choice is printed.
    ///
    /// Behind `pop3s://` TLS begins with the first octet, behind `pop3+stls://` STLS is offered. Otherwise, with a certificate, TLS
    /// begins as it did in the session.
    #[arg(short, long, value_name = "ADDR", value_parser = Argument::<ListenAddress>::new(), default_value = "127.0.0.1:1110")]
    pub listen: ListenAddress,
    /// PEM file with the certificate for clients, and those that lead from it to its authority.
    #[arg(long, value_name = "FILE", conflicts_with = "self_signed")]
    pub cert: Option<PathBuf>,
    /// PEM file with its private key [default: the certificate's file].
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Make a certificate for `localhost` and 127.0.0.1 that is good for a day; FILE gets it, without its key, for clients to trust.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "clap's way to say that the value may be left out")]
    pub self_signed: Option<Option<PathBuf>>,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How fast: each answer as late as it was recorded, or at once.
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub timing: ReplayTiming,
    /// The longest wait before an answer, and the longest time for a body, with the timing as recorded.
    #[arg(long, value_name = "PERIOD", value_parser = Argument::<Period>::new(), default_value = "30s")]
    pub max_delay: Period,
    /// Octets of a message that are made up at most.
    #[arg(long, value_name = "SIZE", value_parser = Argument::<Size>::new(), default_value = "1 GiB")]
    pub max_octets: Size,
    /// End when the first client has left.
    #[arg(long)]
    pub once: bool,
}

/// How fast a session is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReplayTiming {
    /// As it was.
    #[default]
    Recorded,
    /// Without waiting.
    Fast,
}
