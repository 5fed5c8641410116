//! `poptap sessions export` and `sessions scrub`.

use std::{
    io::{self, BufWriter, IsTerminal as _},
    path::Path,
};

use super::{Failure, exit};
use crate::{
    cli::{ExportArgs, ScrubArgs},
    config,
    inspect::{self, Export, ExportError, ExportFormat, Scrub, Which},
};

/// Exports one session.
pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let directory = config::store(&args.store)?;
    let which = args.id.clone().map_or(Which::Last, Which::Id);
    let is_stdout = args.output.as_deref() == Some(Path::new("-"));
    if is_stdout && args.format == ExportFormat::Eml {
        return Err(Failure::new(exit::USAGE, "messages are files, one each: name a directory with --output"));
    }
    let output = args.output.as_deref().filter(|_| !is_stdout);
    let (stdout, format) = (io::stdout(), args.format);
    if format == ExportFormat::Pcapng && output.is_none() && stdout.is_terminal() {
        return Err(Failure::new(exit::USAGE, "packets are not for a terminal: name a file with --output, or use a pipe"));
    }
    let export = Export { directory: &directory, which: &which, format, output, force: args.force, filler: args.max_octets.0 };
    Ok(inspect::export(&export, &mut BufWriter::new(stdout.lock()), &mut io::stderr().lock())?)
}

/// Copies sessions without what names anybody, and prints the files' names.
pub(super) fn scrub(args: &ScrubArgs) -> Result<(), Failure> {
    let directory = config::store(&args.store)?;
    let ids = args.ids.iter().cloned().map(Which::Id);
    let which: Vec<_> = if args.last { vec![Which::Last] } else { ids.collect() };
    let scrub = Scrub { directory: &directory, which: &which, output: &args.output, force: args.force };
    let files = inspect::scrub(&scrub, &mut io::stderr().lock())?;
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    super::print(&format!("{}\n", names.join("\n")))
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Inspect(error) => error.into(),
            ExportError::Exists(_) | ExportError::Create { .. } => Self::new(exit::CANT_CREATE, error),
            _ => Self::new(exit::UNAVAILABLE, error),
        }
    }
}
