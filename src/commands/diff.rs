//! `poptap sessions diff`: whether two sessions went the same way.

use std::io;

use super::{Failure, exit};
use crate::{
    cli::DiffArgs,
    config,
    inspect::{self, Comparison, View, Which},
};

pub(super) fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let sessions = [&args.one, &args.other].map(|id| Which::Id(id.clone()));
    let comparison = Comparison { exact: args.exact, timing: args.timing.unwrap_or_default() };
    let [one, other] = sessions.each_ref();
    let view = View::of_stdout(args.json);
    let same = inspect::diff(&store, [one, other], comparison, view, &mut io::stdout().lock(), &mut io::stderr().lock())?;
    if same { Ok(()) } else { Err(Failure::new(exit::DIFFERENT, "the sessions differ")) }
}
