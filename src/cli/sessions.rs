//! What `sessions list`, `grep`, `follow` and `show` take.

use std::ffi::OsStr;

use clap::{Args, builder::TypedValueParser, error::ErrorKind};

use super::StoreArgs;
use crate::{
    config::{Argument, Period},
    inspect::filter::{Field, Filter, FilterError},
};

/// What `sessions list` takes.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which sessions.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Only sessions for which this expression holds, as of `sessions grep`.
    #[arg(long, value_name = "EXPR", value_parser = Expression)]
    pub filter: Option<Filter>,
    /// The newest so many.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print JSON Lines instead of a table.
    #[arg(long)]
    pub json: bool,
}

const GREP: &str = "\
Examples:
  poptap sessions grep 'user ~ anna and verb = RETR and latency > 5s'
      slow retrievals of anna's
  poptap sessions grep 'status = -ERR and not verb = PASS' --since 1d
      what was refused today, but for logins
  poptap sessions grep 'tls.client = none and logged-in' --json
      logins in clear, for a script

Exit codes:
  0 something matches, 1 nothing does, 64 wrong usage, 69 no such store";

/// What `sessions grep` takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = GREP)]
pub struct GrepArgs {
    /// The expression: conditions such as `verb = RETR`, `latency > 5s`, `user ~ anna`, with `and`, `or`, `not`.
    #[arg(value_name = "EXPR", value_parser = Expression)]
    pub filter: Filter,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which sessions.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Print the number of sessions that match, and nothing else.
    #[arg(long, conflicts_with = "json")]
    pub count: bool,
    /// Print one JSON object for each command that matches, or, where the expression is about sessions alone, each session's record.
    #[arg(long)]
    pub json: bool,
}

/// What `sessions follow` takes.
#[derive(Args, Clone, Debug)]
pub struct FollowArgs {
    /// Only sessions, or commands, for which this expression holds, as of `sessions grep`.
    #[arg(value_name = "EXPR", value_parser = Expression)]
    pub filter: Option<Filter>,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which sessions.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Print records as JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// What `sessions show` takes.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The session's id, or the beginning of it.
    #[arg(value_name = "ID", required_unless_present = "last", conflicts_with = "last")]
    pub id: Option<String>,
    /// The session that ended last.
    #[arg(long)]
    pub last: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Unfold the messages, as far as their content was kept.
    #[arg(long)]
    pub bodies: bool,
    /// Print the records as JSON Lines.
    #[arg(long, conflicts_with = "bodies")]
    pub json: bool,
    /// Never start a pager.
    #[arg(long)]
    pub no_pager: bool,
}

/// Which sessions are wanted.
#[derive(Args, Clone, Debug, Default)]
pub struct WhichArgs {
    /// Only this user's.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only from this address, or this network.
    #[arg(long, value_name = "ADDR|CIDR", value_parser = Is(Field::Client))]
    pub client: Option<Filter>,
    /// Only to this server: its name or URL as configured.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Only those that began so long ago or less, such as `2h` or `7 days`.
    #[arg(long, value_name = "PERIOD", value_parser = Argument::<Period>::new())]
    pub since: Option<Period>,
    /// Only those in which nobody logged in, or that ended otherwise than by QUIT.
    #[arg(long)]
    pub failed: bool,
}

impl WhichArgs {
    /// What they ask for, together with an expression.
    #[must_use]
    pub fn filter(&self, expression: Option<&Filter>) -> Filter {
        let named = [(Field::User, &self.user), (Field::Upstream, &self.upstream)];
        let named = named.into_iter().filter_map(|(field, value)| Some(Filter::text(field, value.as_ref()?)));
        let failed = self.failed.then(|| Filter::has(Field::Failed));
        Filter::all(named.chain(self.client.clone()).chain(failed).chain(expression.cloned()))
    }
}

/// Reads an expression.
#[derive(Clone)]
struct Expression;

impl TypedValueParser for Expression {
    type Value = Filter;

    fn parse_ref(&self, command: &clap::Command, _arg: Option<&clap::Arg>, value: &OsStr) -> Result<Filter, clap::Error> {
        let text = value.to_str().ok_or_else(|| clap::Error::new(ErrorKind::InvalidUtf8).with_cmd(command))?;
        Filter::parse(text).map_err(|error| usage(command, &format!("the expression does not hold: {error}")))
    }
}

/// Reads the value of one field.
#[derive(Clone)]
struct Is(Field);

impl TypedValueParser for Is {
    type Value = Filter;

    fn parse_ref(&self, command: &clap::Command, _arg: Option<&clap::Arg>, value: &OsStr) -> Result<Filter, clap::Error> {
        let text = value.to_str().ok_or_else(|| clap::Error::new(ErrorKind::InvalidUtf8).with_cmd(command))?;
        let said = |error: FilterError| usage(command, &format!("{}\n  hint: {}", error.message(), error.hint()));
        Filter::is(self.0, text).map_err(said)
    }
}

fn usage(command: &clap::Command, text: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{text}\n")).with_cmd(command)
}
