//! Arguments → command → exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use poptap::{
    cli::Cli,
    commands::{self, exit},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match commands::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed stderr leaves the exit code to tell.
            let _ = writeln!(anstream::stderr(), "poptap: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Prints help and version to stdout, and what is wrong to stderr.
fn explain(error: &clap::Error) -> ExitCode {
    // A reader who has gone is no reason to fail.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}
