//! `sessions stats` and `sessions audit`.

use std::{io, time::Duration};

use super::Failure;
use crate::{
    cli::{AuditArgs, By, StatsArgs},
    config,
    inspect::{self, Audited, Form, Span, Summing, View},
};

/// Up to this long ago, sessions are counted by the hour unless said otherwise.
const HOURS: Duration = Duration::from_secs(2 * 86_400);

pub(super) fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let by = match args.by {
        Some(By::Hour) => Span::Hour,
        None if args.since.is_some_and(|period| period.0 <= HOURS) => Span::Hour,
        Some(By::Day) | None => Span::Day,
    };
    let asked = Summing { since: args.since.map(|period| inspect::ago(period.0)), top: args.top, by };
    Ok(inspect::stats(&store, &asked, View::of_stdout(args.json), &mut io::stdout().lock(), &mut io::stderr().lock())?)
}

pub(super) fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let form = match (args.csv, args.json) {
        (true, _) => Form::Csv,
        (_, true) => Form::Json,
        _ => Form::Table,
    };
    let asked = Audited { plain: args.plain, since: args.since.map(|period| inspect::ago(period.0)), form };
    Ok(inspect::audit(&store, &asked, View::of_stdout(args.json), &mut io::stdout().lock(), &mut io::stderr().lock())?)
}
