//! A pager for what is longer than a terminal.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    process::{Command, Stdio},
};

/// Writes to standard output, through the user's pager where that is a terminal: `PAGER`, or else `less`. An empty `PAGER`, or
/// `cat`, wants none; one that cannot be started is done without.
///
/// # Errors
///
/// What the writing fails with. That the pager was left is no error: it is a closed pipe.
pub(super) fn paged<E>(write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E> {
    let pager = env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    if !io::stdout().is_terminal() || matches!(pager.trim(), "" | "cat") {
        return write(&mut io::stdout().lock());
    }
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        // What fits on the screen is simply printed, and colours are colours.
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else { return write(&mut io::stdout().lock()) };
    let written = child.stdin.take().map_or(Ok(()), |mut input| write(&mut input));
    // How it ended is its own affair.
    let _status = child.wait();
    written
}
