//! What `sessions stats` and `sessions audit` take.

use clap::{Args, ValueEnum};

use super::StoreArgs;
use crate::config::{Argument, Period};

/// What `sessions stats` takes.
#[derive(Args, Clone, Debug)]
pub struct StatsArgs {
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only sessions that began so long ago or less, such as `2h` or `7 days`.
    #[arg(long, value_name = "PERIOD", value_parser = Argument::<Period>::new())]
    pub since: Option<Period>,
    /// How many users, clients and upstreams are told by name.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Count sessions by the day or by the hour in which they began [default: hour with a --since of 2 days at most].
    #[arg(long, value_name = "SPAN")]
    pub by: Option<By>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// How sessions are counted over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// For each day.
    Day,
    /// For each hour.
    Hour,
}

/// What `sessions audit` takes.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only who logged in over a client's hop in plain text.
    #[arg(long)]
    pub plain: bool,
    /// Only who logged in so long ago or less, such as `30 days`. What is counted of them is all the same everything.
    #[arg(long, value_name = "PERIOD", value_parser = Argument::<Period>::new())]
    pub since: Option<Period>,
    /// Print comma-separated values (RFC 4180) instead of a table.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
