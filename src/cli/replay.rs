//! What `sessions diff` and `replay` take.

use clap::Args;

use super::StoreArgs;
use crate::inspect::Timing;

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
