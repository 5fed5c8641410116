//! What `sessions export` and `sessions scrub` take.

use std::path::PathBuf;

use clap::Args;

use super::StoreArgs;
use crate::{
    config::{Argument, Size},
    inspect::ExportFormat,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  poptap sessions export --last --format text --output session.txt
  poptap sessions export 7k2m --format pcapng --output session.pcapng
      the client's hop as packets; ports are as they were, so tell Wireshark what is spoken on them:
      tshark -r session.pcapng -d tcp.port==1110,pop
  poptap sessions export 7k2m --format mbox --output session.mbox
      the messages, where the transcript was made with `--content full`";

pub(super) const SCRUB_EXAMPLES: &str = "\
Examples:
  poptap sessions scrub 7k2m --output ./copy
  poptap sessions show --last --transcript ./copy
      look through it before you publish it";

/// What `sessions export` takes.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The session's id, or the beginning of it.
    #[arg(value_name = "ID", required_unless_present = "last", conflicts_with = "last")]
    pub id: Option<String>,
    /// The session that ended last.
    #[arg(long)]
    pub last: bool,
    /// As what.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ExportFormat,
    /// The file, `-` for standard output, or with `eml` the directory [default: standard output; with `eml` the current directory].
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// Octets of filler at most, in the place of what was not kept (pcapng).
    #[arg(long, value_name = "SIZE", value_parser = Argument::<Size>::new(), default_value = "1 GiB")]
    pub max_octets: Size,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What `sessions scrub` takes.
#[derive(Args, Clone, Debug)]
pub struct ScrubArgs {
    /// The sessions' ids, or the beginnings of them.
    #[arg(value_name = "ID", required_unless_present = "last", conflicts_with = "last")]
    pub ids: Vec<String>,
    /// The session that ended last.
    #[arg(long)]
    pub last: bool,
    /// Where to: a directory that becomes a store of its own, or a file whose name ends in `.jsonl`.
    #[arg(short, long, value_name = "DIR|FILE")]
    pub output: PathBuf,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}
