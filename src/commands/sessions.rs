//! `poptap sessions list`, `grep`, `follow` and `show`.

use std::io::{self, IsTerminal as _};

use super::{Failure, exit, pager};
use crate::{
    cli::{FollowArgs, GrepArgs, ListArgs, ShowArgs, WhichArgs},
    config,
    inspect::{self, Selection, View, Which, filter::Filter},
};

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let selection = Selection { limit: args.limit, ..selection(&args.which, args.filter.as_ref()) };
    inspect::list(&store, &selection, View::of_stdout(args.json), &mut io::stdout().lock(), &mut io::stderr().lock())?;
    Ok(())
}

pub(super) fn grep(args: &GrepArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let selection = selection(&args.which, Some(&args.filter));
    let (view, out, err) = (View::of_stdout(args.json), &mut io::stdout().lock(), &mut io::stderr().lock());
    let found = if args.count {
        inspect::count(&store, &selection, out, err)?
    } else {
        inspect::grep(&store, &selection, view, out, err)?
    };
    if found { Ok(()) } else { Err(Failure::new(exit::DIFFERENT, "nothing matches")) }
}

pub(super) fn follow(args: &FollowArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let selection = selection(&args.which, args.filter.as_ref());
    let (out, err) = (&mut io::stdout().lock(), &mut io::stderr().lock());
    Ok(inspect::follow(&store, &selection, View::of_stdout(args.json), out, err)?)
}

pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    let store = config::store(&args.store)?;
    let which = args.id.clone().map_or(Which::Last, Which::Id);
    let view = View { bodies: args.bodies, ..View::of_stdout(args.json) };
    let err = &mut io::stderr().lock();
    if args.json || args.no_pager {
        return Ok(inspect::show(&store, &which, view, &mut io::stdout().lock(), err)?);
    }
    pager::paged(|out| inspect::show(&store, &which, view, out, err))?;
    Ok(())
}

fn selection(which: &WhichArgs, filter: Option<&Filter>) -> Selection {
    let since = which.since.map(|period| inspect::ago(period.0));
    Selection { filter: which.filter(filter), since, limit: None, progress: io::stderr().is_terminal() }
}
